"""From token ids to text as it streams: incremental detokenization, stop strings, choices, log-probabilities."""
