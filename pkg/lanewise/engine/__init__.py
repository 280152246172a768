"""Who runs in this step: requests, pages, batches, sampling. Nothing here knows C; the model below does."""
