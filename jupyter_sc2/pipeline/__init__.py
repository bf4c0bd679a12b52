"""From a request to its text: the queue, the loaded engine, the generation under way, and what may be shown of it."""
