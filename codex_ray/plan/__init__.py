"""Planning: what a run would need in memory, time and money, before anything is started."""
