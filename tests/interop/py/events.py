"""One JSON object per line."""

import json


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)
