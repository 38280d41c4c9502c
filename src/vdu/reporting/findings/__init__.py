"""One file per answer: what was found (level, reason code, numbers), and the sentences that say it."""
