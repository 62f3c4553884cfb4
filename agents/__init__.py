"""The Faust agents, one file a job. They join `pipeline` and `sinks` to `stream`, and do nothing else."""
