"""The task of one trial: training, decisions, checkpoints and failures, until the trial ends."""
