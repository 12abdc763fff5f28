"""The export for sherpa-onnx: its metadata, its own extractor, and front ends that it does not have."""

import pytest
import torch
from builders import ECAPA, make_model, noises

from speechssl.errors import UserError
from speechssl.exporters import sherpa

SHALLOW = {**ECAPA, "kernel_sizes": [5, 3, 1], "dilations": [1, 2, 1]}
FRONT_END = {"name": "kaldi", "n_mels": 80, "snip_edges": False, "f_max": 7600.0}


@pytest.mark.slow
def test_sherpa_onnx_embeds_as_the_model(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra export")
    model = make_model(SHALLOW, scale=1.0, **FRONT_END)
    sherpa.write(model, tmp_path)
    path = str(tmp_path / "model.onnx")
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert told["normalize_samples"] == "1" and told["sample_rate"] == "16000"
    assert told["output_dim"] == "12" and told["feature_normalize_type"] == "global-mean"
    theirs = pytest.importorskip("sherpa_onnx", reason="needs sherpa-onnx")
    extractor = theirs.SpeakerEmbeddingExtractor(theirs.SpeakerEmbeddingExtractorConfig(model=path))
    wave = noises(1, 24000)
    stream = extractor.create_stream()
    stream.accept_waveform(16000, wave[0].numpy())
    stream.input_finished()
    with torch.no_grad():
        want = model(wave)[0]
    torch.testing.assert_close(torch.tensor(extractor.compute(stream)), want, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "features", [{}, {"name": "kaldi", "n_mels": 24}, {**FRONT_END, "scale": 2.0}]
)
def test_other_front_ends_are_refused(features, tmp_path):
    with pytest.raises(UserError, match="sherpa-onnx computes"):
        sherpa.write(make_model(SHALLOW, **features), tmp_path)


def test_what_it_computes_a_little_differently_is_said():
    model = make_model(SHALLOW, name="kaldi", n_mels=80, window_type="hamming")
    with pytest.warns(UserWarning) as told:
        sherpa.check_front_end(model.settings["features"])
    said = " ".join(str(warning.message) for warning in told)
    assert "window_type povey" in said and "snip_edges False" in said and "f_max 7600" in said
