"""Items onto devices: the plan, the ledger, the worker, and the executors that run workers."""
