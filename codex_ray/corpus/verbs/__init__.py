"""The verbs that look at corpora and make new ones of them; none of them needs Ray."""
