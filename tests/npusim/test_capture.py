"""The simulated capture of a stream: what is noted and done later, what is refused and how, and whose memory it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

Simulated = Callable[..., str]

ATTEMPTS = """
import json
npu, before = torch.npu, torch.npu.Event()
before.record()

def attempt(work):
    x, y = torch.arange(4.0).npu(), torch.zeros(4).npu()
    graph, stream = npu.NPUGraph(), npu.Stream()
    npu.set_task_queue_enable({queue})
    assert npu.get_task_queue_enable() == {queue}
    try:
        with npu.graph(graph):
            exec(work)
    except RuntimeError as error:
        return str(error)
    finally:
        npu.set_task_queue_enable(1)
    captured = y.tolist()
    x.add_(1)
    graph.replay()
    return captured, y.tolist()

OUT.write_text(json.dumps([attempt(work) for work in json.loads({works!r})]))
"""
BESIDE = "stream.wait_stream(npu.current_stream())\nwith npu.stream(stream): y.copy_(x * 2)"
WORKS = [
    "y.copy_(x * 2)",
    "y.copy_(x).mul_(2)",
    "y.add_(x.to(torch.float16)).add_(x)",
    "y.zero_(); torch.add(x, x, out=y)",
    f"{BESIDE}\nnpu.current_stream().wait_stream(stream)",
]
REFUSED = {
    "x.sum().item()": 107027,
    "npu.synchronize()": 107027,
    "npu.current_stream().synchronize()": 107027,
    "npu.current_stream().query()": 107027,
    "y.copy_(torch.ones(4), non_blocking=True)": 107027,
    "event = npu.Event(); event.record(); event.synchronize()": 107028,
    "x.cpu()": 107030,
    "y.copy_(torch.ones(4))": 107030,
    "npu.current_stream().wait_event(before)": 107024,
    BESIDE: 107025,
}


@pytest.mark.parametrize("queue", [0, 1])
def test_what_a_captured_stream_is_given_is_done_when_it_is_replayed(simulated: Simulated, queue: int) -> None:
    code = ATTEMPTS.format(works=json.dumps(WORKS), queue=queue)
    found = json.loads(simulated(code, ASCEND_LAUNCH_BLOCKING="0"))
    assert found == [[[0, 0, 0, 0], [2, 4, 6, 8]]] * len(WORKS)


def test_what_a_capture_cannot_hold_is_refused_with_the_code_of_cann(simulated: Simulated) -> None:
    found = json.loads(simulated(ATTEMPTS.format(works=json.dumps(list(REFUSED)), queue=0)))
    codes = [re.findall(r"error code is (\d+)", str(message)) for message in found]
    assert dict(zip(REFUSED, codes, strict=True)) == {work: [str(code)] for work, code in REFUSED.items()}


def test_a_copy_between_pinned_memory_and_the_device_is_captured(simulated: Simulated) -> None:
    code = """
import json
host, back = torch.arange(4.0).pin_memory(), torch.zeros(4).pin_memory()
x, graph = torch.zeros(4).npu(), torch.npu.NPUGraph()
with torch.npu.graph(graph):
    x.copy_(host, non_blocking=True)
    x.mul_(3)
    back.copy_(x, non_blocking=True)
seen = [back.tolist()]
for _ in range(2):
    host.add_(1)
    graph.replay()
    torch.npu.synchronize()
    seen.append(back.tolist())
OUT.write_text(json.dumps(seen))
"""
    assert json.loads(simulated(code)) == [[0, 0, 0, 0], [3, 6, 9, 12], [6, 9, 12, 15]]


def test_the_runtime_answers_a_misplaced_call_with_the_code_of_cann(simulated: Simulated) -> None:
    code = """
import ctypes, json, threading
cann = ctypes.CDLL(None)
def made(create, *options):
    handle = ctypes.c_void_p()
    assert create(ctypes.byref(handle), *options) == 0
    return handle
first, second = made(cann.aclrtCreateStream), made(cann.aclrtCreateStream)
plain, event = made(cann.aclrtCreateEvent), made(cann.aclrtCreateEventExWithFlag, 1)
model, mode, bytes_ = ctypes.c_void_p(), ctypes.c_int(2), ctypes.create_string_buffer(8)
def end(stream): return cann.aclmdlRICaptureEnd(stream, ctypes.byref(model))
def copy(*stream): return (cann.aclrtMemcpyAsync if stream else cann.aclrtMemcpy)(bytes_, 8, bytes_, 8, 2, *stream)
def elsewhere(call):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(call()))
    thread.start()
    thread.join()
    return answers[0]
answers = {
    "not captured": end(first),
    "default stream": cann.aclmdlRICaptureBegin(None, 0),
    "begun": cann.aclmdlRICaptureBegin(first, 0),
    "begun again": cann.aclmdlRICaptureBegin(first, 0),
    "another thread": elsewhere(lambda: end(first)),
    "event of the old kind": cann.aclrtRecordEvent(plain, first),
    "event": cann.aclrtRecordEvent(event, first),
    "waiting default stream": cann.aclrtStreamWaitEvent(None, event),
    "second": cann.aclmdlRICaptureBegin(second, 1),
    "waiting second capture": cann.aclrtStreamWaitEvent(second, event),
    "copy of another thread": elsewhere(copy),
    "blocking copy": copy(made(cann.aclrtCreateStream)),
    "exchanged": cann.aclmdlRICaptureThreadExchangeMode(ctypes.byref(mode)),
    "relaxed copy": copy(),
    "ended": end(first),
    "destroyed": cann.aclmdlRIDestroy(model),
    "ended second": end(second),
    "event after it": cann.aclrtSynchronizeEvent(event),
}
third = made(cann.aclrtCreateStream)
cann.aclmdlRICaptureBegin(first, 2)
cann.aclrtRecordEvent(event, first)
cann.aclrtStreamWaitEvent(third, event)
answers |= {"not where it began": end(third), "destroyed in a capture": cann.aclrtDestroyStream(third)}
OUT.write_text(json.dumps(answers))
"""
    assert json.loads(simulated(code)) == {
        "not captured": 107029,
        "default stream": 107031,
        "begun": 0,
        "begun again": 107027,
        "another thread": 107038,
        "event of the old kind": 207000,
        "event": 0,
        "waiting default stream": 107031,
        "second": 0,
        "waiting second capture": 107032,
        "copy of another thread": 107030,
        "blocking copy": 107041,
        "exchanged": 0,
        "relaxed copy": 0,
        "ended": 0,
        "destroyed": 0,
        "ended second": 0,
        "event after it": 0,
        "not where it began": 107036,
        "destroyed in a capture": 107027,
    }


def test_what_a_graph_allocates_is_its_own_until_it_goes(simulated: Simulated) -> None:
    code = """
import json
npu, x, y = torch.npu, torch.ones(1 << 20).npu(), torch.zeros(1 << 20).npu()
graph, addresses = npu.NPUGraph(), []
with npu.graph(graph):
    between = x + 1
    addresses.append(between.data_ptr())
    torch.mul(between, 2, out=y)
    del between
npu.empty_cache()
held = npu.memory_reserved()
others = [torch.full((1 << 20,), 7.0).npu() for _ in range(8)]
apart = all(other.data_ptr() != addresses[0] for other in others)
graph.replay()
untouched = all(bool((other == 7).all()) for other in others)
result = float(y.min()), float(y.max())
del others, graph
npu.synchronize()
npu.empty_cache()
OUT.write_text(json.dumps([apart, untouched, result, held - npu.memory_reserved() >= x.nbytes]))
"""
    assert json.loads(simulated(code)) == [True, True, [4.0, 4.0], True]
