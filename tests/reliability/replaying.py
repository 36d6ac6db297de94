"""A Stage-A run over recorded replies, to be started as a process and killed: OUTPUT COUNT [SECONDS_PER_WINDOW]."""

import sys
import time
from pathlib import Path

from plumbline.errors import UserError
from plumbline.infer.engine import Reply, Request
from plumbline.infer.runner import RunOptions, run_work
from plumbline.stage_a.summaries import read_reply


class Photo:
    def __init__(self, number):
        self.key = f"任务/审核通过/QC-{number // 8}/p{number % 8}.jpg"


class Work:
    def ask(self, item):
        return Request(item.key, (), "system", "user")

    def row(self, item, request, reply):
        summary, status, problems = read_reply(reply)
        return {"key": item.key, "status": status, "summary": summary, "problems": problems}


class Recorded:
    identity = "recorded"

    def __init__(self, pause):
        self.pause = pause

    def stream(self, requests):
        for request in requests:
            yield Reply(request.key, f"标签×{len(request.key)}，{request.key}")
        time.sleep(self.pause)


def main(output, count, pause=0.0):
    items = [Photo(number) for number in range(count)]
    report = run_work(items, Work(), lambda: Recorded(pause), RunOptions(Path(output), window=20), {"model": "m"})
    return report.exit_code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
