"""Federated training: clients train on audio that stays where it is, a server averages weights."""
