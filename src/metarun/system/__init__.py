"""Files, downloads, processes, threads, seeds and the console; knows nothing of learning."""
