"""The torture test: the ledger under kill -9, judged by what an independent mail server took (docs/torture.md)."""
