"""A server on loopback that lets the tiny model tell `prompt_logprobs`, in vLLM's words."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from plumbline.data.images import load_image
from plumbline.model.loading import load_model, load_processor


@contextmanager
def teaching(folder, names=("tiny",), lost=0):
    """(address, the bodies that were asked). lost: so many tokens of a prompt it does not read."""
    model, processor = load_model(folder), load_processor(folder)
    asked, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer({"data": [{"id": name} for name in names]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append(body)
                self.answer({"choices": [{}], "prompt_logprobs": told(body)})

        def answer(self, content):
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            """Silent."""

    def told(body):
        messages = [{**turn, "content": [part(p) for p in parts_of(turn)]} for turn in body["messages"]]
        images = [p["image"] for turn in messages for p in turn["content"] if p["type"] == "image"]
        text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
        inputs = processor(text=[text], images=images or None, return_tensors="pt")
        with torch.no_grad():
            log_probs = model(**inputs).logits[0].log_softmax(-1)
        ids = inputs["input_ids"][0].tolist()
        places = [None]
        for token, row in zip(ids[1:], log_probs[:-1], strict=True):
            values, tops = row.topk(body["prompt_logprobs"])
            named = dict(zip(tops.tolist(), values.tolist(), strict=True)) | {token: float(row[token])}
            places.append({str(name): {"logprob": value} for name, value in named.items()})
        return places[lost:]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def parts_of(turn):
    content = turn["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def part(item):
    if item["type"] == "image_url":
        return {"type": "image", "image": load_image(item["image_url"]["url"])}
    return item
