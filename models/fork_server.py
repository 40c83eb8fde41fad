"""The other side of `models.fork`: run by the fork's own interpreter, where this project is not installed.

    python fork_server.py WEIGHTS DEVICE

Says what its labels are, then answers pictures: a line of JSON {"height", "width", "imgsz", "conf"} and the RGB bytes
come in, a line of JSON [[label, score, [left, top, right, bottom]], ...] goes out; {"error": text} if it fails.
Needs numpy and a package that calls itself ultralytics; nothing newer than Python 3.8.
"""

import json
import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # the package writes what it likes to standard output; not into the answers
    os.dup2(2, 1)
    try:
        import numpy as np
        from ultralytics import YOLO

        weights, device = sys.argv[1:3]
        model = YOLO(weights)
        model.to(device)
        model.predict(np.zeros((64, 64, 3), np.uint8), device=device, verbose=False)  # the first one is slow
    except Exception as error:
        tell(answers, {"error": f"{type(error).__name__}: {error}"})
        return
    tell(answers, {"names": list(model.names.values())})
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return  # the owner is gone
        asked = json.loads(line)
        size = (asked["height"], asked["width"], 3)
        data = sys.stdin.buffer.read(size[0] * size[1] * size[2])
        try:
            rgb = np.frombuffer(data, np.uint8).reshape(size)
            bgr = np.ascontiguousarray(rgb[..., ::-1])  # the package wants BGR
            found = model.predict(bgr, imgsz=asked["imgsz"], conf=asked["conf"], device=device, verbose=False)[0]
            boxes = found.boxes
            rows = zip(boxes.cls.tolist(), boxes.conf.tolist(), boxes.xyxy.tolist())  # noqa: B905 (newer than 3.8)
            tell(answers, [[found.names[int(label)], score, corners] for label, score, corners in rows])
        except Exception as error:
            tell(answers, {"error": f"{type(error).__name__}: {error}"})


def tell(answers, value) -> None:  # type: ignore[no-untyped-def]
    answers.write(json.dumps(value) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
