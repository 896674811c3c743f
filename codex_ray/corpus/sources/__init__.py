"""Sources: from what a user has (folders, archives, tables, buckets) to documents and reasons why not."""
