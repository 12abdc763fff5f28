"""Whole runs of small clients: the known answers of methods/README.md 14.2, kills and damage."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl import parts
from speechssl.cli.command import main
from speechssl.embed.embedder import Embedder
from speechssl.errors import UserError
from speechssl.federated import local
from speechssl.federated.client import Client
from speechssl.federated.clients import client_names, folder_of, holdings
from speechssl.federated.local import make_client, run_here
from speechssl.federated.messages import Task
from speechssl.federated.server import Server
from speechssl.federated.settings import read_settings
from speechssl.federated.shared import Blank
from speechssl.federated.wire import pack
from speechssl.train import loop
from speechssl.train.settings import resolve
from speechssl.weights import read_checkpoint


def federate(configuration: Path, out: Path, *words: str, resume: bool = False) -> Path:
    return run_here(*read_settings(str(configuration), words), out, resume=resume, device="cpu")


def final(out: Path) -> dict[str, torch.Tensor]:
    """Return the shared weights at the end."""
    state: dict[str, torch.Tensor] = read_checkpoint(out / "server.pt")["state"]
    return state


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


METHODS = [
    "method={name: simsiam, hidden: 16, projection: 8, predictor: directpred}",
    "method={name: byol, hidden: 16, projection: 8, teacher_momentum: 0.9}",
    "method={name: dino, prototypes: 16, layers: 2, hidden: 16, bottleneck: 8}",
    "method={name: moco, hidden: 16, projection: 8, queue_size: 16}",
]


@pytest.mark.parametrize("method", METHODS)
def test_one_client_ends_with_the_bits_of_the_centralised_run(
    configuration: Path, two_clients: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    words = [method, f"data.train=[{two_clients[1]}]"]
    out = federate(
        configuration,
        tmp_path / "run",
        *words,
        "federated.optimizer=kept",
        "federated.rate=step",
    )
    plain = tmp_path / "plain.yaml"
    text = configuration.read_text().partition("federated:")
    rest = text[2].partition("\nmethod:")
    plain.write_text(text[0] + "method:" + rest[2])
    central = loop.train(str(plain), [*words, "train.steps=4"], out=tmp_path / "all", device="cpu")
    trained = read_checkpoint(central / "last.pt")["method"]
    shared = final(out)
    assert len(shared) > 20
    assert all(torch.equal(value, trained[name]) for name, value in shared.items())
    own = read_checkpoint(folder_of(out, "high") / "last.pt")["method"]
    assert all(torch.equal(value, trained[name]) for name, value in own.items())
    start = Blank(resolve(str(plain), [*words, "train.steps=4"])).state()
    assert not equal(shared, start)


def test_the_order_of_clients_changes_no_bit(
    configuration: Path, two_clients: tuple[Path, Path], tmp_path: Path
) -> None:
    low, high = two_clients
    one = federate(configuration, tmp_path / "one", f"data.train=[{low},{high}]")
    other = federate(configuration, tmp_path / "other", f"data.train=[{high},{low}]")
    assert equal(final(one), final(other))


def test_a_round_is_the_mean_of_the_clients_by_their_utterances(
    configuration: Path, tmp_path: Path
) -> None:
    out = federate(configuration, tmp_path / "run", "federated.rounds=1")
    states = []
    for name in ("low", "high"):
        states.append(read_checkpoint(folder_of(out, name) / "last.pt")["method"])
    for name, value in final(out).items():
        if value.is_floating_point():
            mean = (8 * states[0][name].double() + 12 * states[1][name].double()) / 20
            torch.testing.assert_close(value, mean.float(), atol=1e-7, rtol=1e-6)
    log = lines(out)
    assert [entry["clients"][name]["utterances"] for entry in log for name in ("low", "high")] == [
        8,
        12,
    ]
    assert not log[0]["failed"] and log[0]["averaged"]


def test_without_federation_each_client_is_alone_and_with_m_0_it_is_fedavg(
    configuration: Path, two_clients: tuple[Path, Path], tmp_path: Path
) -> None:
    ema = "federated.strategy={name: fedema, scale: %s}"
    plain = federate(configuration, tmp_path / "avg")
    zero = federate(configuration, tmp_path / "zero", ema % 0)
    assert equal(final(plain), final(zero))
    alone = federate(configuration, tmp_path / "alone", f"data.train=[{two_clients[0]}]")
    apart = federate(configuration, tmp_path / "apart", ema % 1e9)
    one = read_checkpoint(folder_of(alone, "low") / "last.pt")["method"]
    two = read_checkpoint(folder_of(apart, "low") / "last.pt")["method"]
    assert equal(one, two)
    assert not equal(final(apart), final(plain))


def test_a_server_that_is_killed_after_a_round_resumes_to_the_same_bits(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("federated.rounds=3", "method={name: byol, hidden: 16, projection: 8}")
    whole = federate(configuration, tmp_path / "whole", *words)
    asked = 0
    ask = local._ask

    def dies_before_it_averages(clients: Any, task: Any) -> Any:
        nonlocal asked
        answers = ask(clients, task)
        asked += 1
        if asked == 2:
            raise KeyboardInterrupt  # all clients have trained; nothing is averaged
        return answers

    monkeypatch.setattr(local, "_ask", dies_before_it_averages)
    with pytest.raises(KeyboardInterrupt):
        federate(configuration, tmp_path / "run", *words)
    monkeypatch.setattr(local, "_ask", ask)
    assert read_checkpoint(tmp_path / "run" / "server.pt")["rounds_done"] == 1
    with pytest.raises(UserError, match="--resume"):
        federate(configuration, tmp_path / "run", *words)
    federate(configuration, tmp_path / "run", *words, resume=True)
    assert equal(final(whole), final(tmp_path / "run"))
    assert [entry["round"] for entry in lines(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize(("round", "number"), [(0, 1), (-(10**15), 1), (3, 1), (1, 0)])
def test_a_client_trains_no_round_that_there_is_not(
    configuration: Path, tmp_path: Path, round: int, number: int
) -> None:
    config, settings = read_settings(str(configuration))
    client = make_client(config, settings, "low", tmp_path, "cpu")
    task = Task(number, "train", round, pack(Blank(config).state()))
    with pytest.raises(UserError, match="asks for round"):
        client.answer(task)
    assert not client.folder.last.exists()


def test_a_client_that_fails_in_a_round_is_left_out_and_comes_back(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Client.answer

    def fails_once(self: Client, task: Any) -> Any:
        if self.name == "low" and task.number == 1:
            raise UserError("the disk is full")
        return answer(self, task)

    monkeypatch.setattr(Client, "answer", fails_once)
    out = federate(configuration, tmp_path / "run")
    first, second = lines(out)
    assert list(first["clients"]) == ["high"] and first["failed"] == {"low": "the disk is full"}
    assert sorted(second["clients"]) == ["high", "low"]


def test_a_full_disk_ends_the_run_and_leaves_no_client_out(
    configuration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = federate(configuration, tmp_path / "whole")
    replace = os.replace

    def is_full(source: Path, target: Path) -> None:
        is_second_round = (tmp_path / "run/log.jsonl").exists()
        if Path(target).name == "last.pt" and is_second_round:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", is_full)
        with pytest.raises(UserError, match=r"last\.pt: cannot be written \(No space left"):
            federate(configuration, tmp_path / "run")
    federate(configuration, tmp_path / "run", resume=True)
    assert (tmp_path / "run/server.pt").read_bytes() == (whole / "server.pt").read_bytes()


def answers_to(configuration: Path, out: Path) -> tuple[Server, Any, list[Any]]:
    config, settings = read_settings(str(configuration))
    server = Server(config, settings, out, resume=False)
    task = server.next_task()
    assert task is not None
    names = client_names(config, settings)
    clients = [make_client(config, settings, name, out, "cpu") for name in names]
    return server, task, [client.answer(task) for client in clients]


def test_answers_that_do_not_fit_are_left_out_and_the_mean_is_that_of_the_others(
    configuration: Path, tmp_path: Path
) -> None:
    server, task, (good, other) = answers_to(configuration, tmp_path / "run")
    broken = {name: value.clone() for name, value in server.state.items()}
    broken[next(name for name in broken if name.endswith("weight"))].fill_(float("nan"))
    bad = [
        replace(other, client="nan", payload=pack(broken)),
        replace(other, client="pickle", payload=b"\x80\x04K\x01."),
        replace(other, client="none", utterances=0),
        replace(other, client="many", utterances=1 << 62),
        replace(other, client="late", number=99),
        replace(other, client="x" * 500),
        replace(other, client="twice"),
        replace(other, client="twice"),
    ]
    server.take(task, [*bad, good])
    (entry,) = lines(tmp_path / "run")
    assert list(entry["clients"]) == [good.client]
    assert len(entry["failed"]) == 7
    own = read_checkpoint(folder_of(tmp_path / "run", good.client) / "last.pt")["method"]
    assert all(torch.equal(value, own[name]) for name, value in server.state.items())


def test_a_client_that_waits_holds_no_weights(configuration: Path, tmp_path: Path) -> None:
    """A hundred clients in one process would otherwise be a hundred models in memory."""
    config, settings = read_settings(str(configuration))
    client = make_client(config, settings, "low", tmp_path, "cpu")
    assert client.expected
    assert all(value.device.type == "meta" for value in client.expected.values())


def test_a_round_with_too_few_answers_is_repeated_and_in_the_end_an_error(
    configuration: Path, tmp_path: Path
) -> None:
    server, task, answers = answers_to(configuration, tmp_path / "run")
    before = {name: value.clone() for name, value in server.state.items()}
    server.take(task, [], [("low", "gone"), ("high", "gone")])
    assert equal(before, server.state) and server.rounds_done == 0
    again = server.next_task()
    assert again is not None and again.round == 1 and again.state == task.state
    for _ in range(9):
        server.take(again, [])
    with pytest.raises(UserError, match="10 times in a row"):
        server.next_task()


def test_only_weights_centroids_counts_and_figures_leave_a_client(
    configuration: Path, two_clients: tuple[Path, Path], tmp_path: Path
) -> None:
    _, _, answers = answers_to(configuration, tmp_path / "run")
    for answer in answers:
        text = repr(answer.figures).encode() + answer.payload
        assert b"low-0" not in text and b"high-0" not in text and b"wavs" not in text
        assert all(isinstance(value, float) for value in answer.figures.values())
    server_files = [path for path in (tmp_path / "run").iterdir() if path.is_file()]
    assert not any(b"low-0" in path.read_bytes() for path in server_files)


def test_clients_by_a_map_have_the_utterances_of_their_group(
    configuration: Path, two_clients: tuple[Path, Path], tmp_path: Path
) -> None:
    map_file = tmp_path / "utt2session"
    with map_file.open("w") as file:
        for folder, count in zip(two_clients, (8, 12), strict=True):
            for number in range(count):
                file.write(f"{folder.name}-{number:02d} session/{number % 2}\n")
    config, settings = read_settings(str(configuration), [f"federated.clients={map_file}"])
    assert client_names(config, settings) == ["session/0", "session/1"]
    held = holdings(config, settings, "session/1")
    assert len(held.utterances) == 10 and all(int(u.id[-2:]) % 2 for u in held.utterances)
    out = federate(
        configuration, tmp_path / "run", f"federated.clients={map_file}", "federated.rounds=1"
    )
    assert sorted(lines(out)[0]["clients"]) == ["session/0", "session/1"]
    folders = [path.name for path in (out / "clients").iterdir()]
    assert sorted(folders) == ["session%2F0", "session%2F1"]
    assert folder_of(out, "..").parent == out / "clients"


def test_two_stages_give_shared_clusters_and_go_on_from_the_first_stage(
    configuration: Path, tmp_path: Path
) -> None:
    ccfc = "method={name: ccfc, hidden: 16, projection: 8}"
    first = federate(configuration, tmp_path / "first", ccfc)
    second = federate(
        configuration,
        tmp_path / "second",
        ccfc,
        "federated.clusters=3",
        "federated.cluster_every=1",
        f"federated.init={first}",
    )
    assert [entry["kind"] for entry in lines(second)] == ["cluster", "train"] * 2
    labels = {}
    for name in ("low", "high"):
        path = folder_of(second, name) / "clusters" / "utt2cluster"
        labels[name] = [line.split()[1] for line in path.read_text().splitlines()]
        about = (folder_of(second, name) / "about.yaml").read_text()
        assert "labels_used: none" in about
    assert (len(labels["low"]), len(labels["high"])) == (8, 12)
    assert set(labels["low"]) | set(labels["high"]) <= {"0", "1", "2"}
    assert not equal(final(first), final(second))


def test_the_second_stage_starts_from_the_weights_of_the_first(
    configuration: Path, tmp_path: Path
) -> None:
    first = federate(configuration, tmp_path / "first", "federated.rounds=1")
    words = ["method={name: ccfc, hidden: 16, projection: 8}", f"federated.init={first}"]
    config, settings = read_settings(str(configuration), words)
    server = Server(config, settings, tmp_path / "second", resume=False)
    before = final(first)
    assert all(torch.equal(value, server.state[name]) for name, value in before.items())


def test_the_model_embeds_and_the_command_says_where_it_is(
    configuration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["federate", str(configuration), "federated.rounds=1", "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "model")
    vector = Embedder.from_pretrained(out / "model").embed(torch.randn(16000) * 0.1, 16000)
    assert vector.shape == (12,)
    personal = folder_of(out, "low") / "model"
    assert Embedder.from_pretrained(personal).dim == 12
    assert main([*words, "--device", "cpu"]) == 2  # holds a run already
    assert main([*words[:1], str(configuration), "--out", str(out), "train.steps=3"]) == 2
    assert main([*words[:1], str(configuration), "--out", str(out), "--client", "low"]) == 2


def test_a_client_whose_folder_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "clients").mkdir(parents=True)
    (tmp_path / "run" / "clients" / "low").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="low is a link"):
        folder_of(tmp_path / "run", "low")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("federated.local_epochs=1", "local_epochs or federated.local_steps"),
        ("federated.clusters=1", "at least 2"),
        ("federated.rounds=0", "above 0"),
        ("federated.strategy=fedavgg", "fedavg"),
        ("federated.strategy=os:getcwd", "os:getcwd is no strategy"),
        ("federated.nothing=1", "unknown key federated.nothing"),
        ("train.epochs=3", "train.epochs is set by federated.rounds"),
        ("heldout.data=somewhere", "heldout is for speechssl train"),
    ],
)
def test_wrong_settings_are_one_line(configuration: Path, word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_settings(str(configuration), [word])


@pytest.mark.parametrize("name", parts.names("methods"))
def test_every_method_has_shared_weights_and_keeps_what_is_its_own(
    configuration: Path, name: str
) -> None:
    config, _ = read_settings(str(configuration), [f"method={name}"])
    blank = Blank(config)
    names = set(blank.names)
    trained = {key for key, p in blank.method.named_parameters() if p.requires_grad}
    assert trained <= names
    memories = ("queue", "values", "centre", "losses", "labels", "assigned")
    assert not any(key.rpartition(".")[2] in memories for key in names)
    if "teacher" in blank.method.networks():
        assert not any("teacher" in key.split(".") for key in names)
        averaged = Blank(config, with_targets=True)
        assert any("teacher" in key.split(".") for key in averaged.names)
