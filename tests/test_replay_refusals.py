"""What `pktalloc replay` does with inputs, options and outputs that are bad, damaged, full or closed."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from c_programs import compiler_for
from replay_command import COMMAND, FAST, LINK, PACKETS, QUICK, load, pcap, replay_json, run

BAD_FILES = {
    "empty file": (b"", "holds no bytes"),
    "not a capture": (b"hello\n", "neither a capture"),
    "no packets": (pcap(), "holds no packets"),
    "cut in the header": (pcap()[:10], "byte 0: the file ends in the middle of it"),
    "cut off in the first record": (pcap(60)[:-3], "packet 1 at byte 24: the file ends in the middle of it"),
    "too large in a trace": (b"# dt_us,size\n1,16777217\n", "line 2: size is `16777217`; allowed: 0 to 16777216 bytes"),
    "snoop": (b"snoop\0\0\0" + bytes(20), "a snoop capture"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "negative": (b"# dt_us,size\n1,60\n-1,60\n", "line 3: dt_us is `-1`; allowed: 0 or more"),
    "nonsense": (b"# dt_us,size\nx\n", "line 2: columns: 1; expected: 2"),
    "histogram": (b"# size,frequency\n9,316\n", "a histogram of sizes"),
    "link": (LINK.encode(), "the departures of a link, not packets; name it with --link"),
    "damaged gzip": (
        gzip.compress(pcap(60))[:-8] + bytes(8),
        "the gzip data is damaged after 40 bytes of its contents",
    ),
    "cut gzip of text": (gzip.compress(PACKETS.encode())[:-9], "line 1"),
    "no end of a line": (b"# dt_us,size\n" + b"1" * 70_000, "line 2: length of the line is more than 65536 bytes"),
}


@pytest.mark.parametrize(("content", "complaint"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    done = run(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pktalloc: {path}: {complaint}")
    assert done.stderr.count("\n") == 1


def test_what_cannot_be_opened_is_named_in_one_line(tmp_path: Path, trace: Path) -> None:
    assert run(tmp_path).stderr == f"pktalloc: {tmp_path}: Is a directory\n"
    missing = tmp_path / "two\nlines"
    assert run(missing).stderr == f"pktalloc: {tmp_path}/two lines: No such file or directory\n"
    done = run(trace, "--link", trace)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pktalloc: {trace}: not the departures of a link")
    done = run(trace, "--copies", 2**32 - 1)
    assert done.returncode == 2
    assert done.stderr.startswith(f"pktalloc: {trace}: more than 16777216 packets, copies included")
    assert run(trace, "--allocators", "/no/such.so").stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="every name of a file is text on Windows")
def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff[bold]")
    path.write_text(PACKETS)
    done = run(path, *FAST)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[bold]" in done.stdout
    link = tmp_path / os.fsdecode(b"\xfe.csv")
    link.write_text(LINK)
    result = replay_json(path, "--link", link)
    assert os.fsencode(result["file"]) == os.fsencode(path)
    assert os.fsencode(result["lifetimes"]["link"]) == os.fsencode(link)


BAD_OPTIONS = [
    ["--depth", "0"],
    ["--depth", "-5"],
    ["--depth", "many"],
    ["--depth", "1.5"],
    ["--depth", "4294967296"],
    ["--depth", "1" + "0" * 5000],
    ["--depth", "\u0665"],
    ["--window-bytes", "12X"],
    ["--alignment", "-1"],
    ["--memory-limit", "99999999999G"],
    ["--allocators", "nonsense"],
    ["--allocators", ","],
    ["--delay", "-1"],
    ["--delay", "nan"],
    ["--delay", "inf"],
    ["--delay", "soon"],
    ["--copies", "0"],
    ["--rounds", "0"],
    ["--depth", "5", "--delay", "5"],
    ["--nonsense"],
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda options: " ".join(options)[:30])
def test_a_bad_option_is_refused_in_one_line(trace: Path, options: Sequence[str]) -> None:
    done = run(trace, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pktalloc: ")
    assert options[0].lstrip("-") in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error_to_talk_about(trace: Path) -> None:
    process = subprocess.Popen([*QUICK, trace], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_what_makes_no_sense_is_a_value_error(trace: Path, link: Path) -> None:
    with pytest.raises(ValueError, match="depth must be at least 1"):
        load(trace, depth=0)
    with pytest.raises(ValueError, match="delay_ms must be 0 or more"):
        load(trace, delay_ms=-1)
    with pytest.raises(ValueError, match="only one of depth, delay_ms and link"):
        load(trace, depth=1, link=link)


def test_an_output_is_tried_before_the_work(trace: Path, tmp_path: Path) -> None:
    for picture, why in [
        (tmp_path / "absent" / "peak.svg", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (Path("/proc/version"), "Permission denied"),
    ]:
        if picture.exists() and picture.is_file() and os.access(picture, os.W_OK):
            continue
        done = run(trace, "--rounds", 1_000_000, "--map", picture)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"pktalloc: {picture}: ")
        assert done.stderr.count("\n") == 1, why


def test_no_output_overwrites_an_input(trace: Path, link: Path, tmp_path: Path) -> None:
    other = tmp_path / "hard"
    other.hardlink_to(trace)
    symbolic = tmp_path / "symbolic"
    symbolic.symlink_to(link)
    for picture in trace, link, other, symbolic:
        done = run(trace, "--link", link, "--map", picture)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pktalloc: {picture}: it is an input, which is not overwritten\n"
    with trace.open("ab") as same:
        done_to_file = subprocess.run([*COMMAND, trace], stdout=same, stderr=subprocess.PIPE, check=False)
    assert done_to_file.returncode == 2
    assert done_to_file.stderr.endswith(b"it is also the standard output, and inputs are not overwritten\n")
    assert trace.read_text() == PACKETS
    assert link.read_text() == LINK


def test_a_map_that_fails_leaves_what_was_there(trace: Path, tmp_path: Path) -> None:
    kept, fresh = tmp_path / "kept.svg", tmp_path / "fresh.svg"
    kept.write_text("before")
    for picture in kept, fresh:
        assert run(tmp_path / "absent", "--map", picture).returncode == 2
    assert kept.read_text() == "before"
    assert not fresh.exists()
    assert run(trace, *FAST, "--map", kept).returncode == 0
    assert kept.read_text().startswith("<svg")
    assert run(trace, *FAST, "--map", os.devnull).returncode == 0


def test_a_capture_that_is_cut_off_is_replayed_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(pcap(60, 60)[:-3])
    done = run(path, *FAST, "--json")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    note = "packet 2 at byte 40: the file ends in the middle of it; replaying the 1 packet before it"
    assert done.stderr == f"pktalloc: {path}: {note}\n"
    result = json.loads(done.stdout)
    assert (result["packets"], result["notes"]) == (1, [note])
    strict = run(path, "--strict")
    assert (strict.returncode, strict.stdout) == (2, "")
    assert strict.stderr == f"pktalloc: {path}: packet 2 at byte 40: the file ends in the middle of it\n"


def test_standard_input_is_read(trace: Path) -> None:
    for content in PACKETS.encode(), gzip.compress(PACKETS.encode()):
        done = run("-", *FAST, "--json", stdin=content)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["packets"] == 100
    with trace.open("rb") as file:
        done_from_file = subprocess.run([*QUICK, "-"], stdin=file, capture_output=True, check=True)
    assert b"standard input" in done_from_file.stdout
    done = run("-", stdin=b"")
    assert (done.returncode, done.stderr) == (2, "pktalloc: standard input: holds no bytes\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no preexec_fn on Windows to close a stream with")
def test_a_standard_input_that_is_closed_is_said_to_be() -> None:
    closed = subprocess.run([*COMMAND, "-"], preexec_fn=lambda: os.close(0), capture_output=True, check=False)
    assert (closed.returncode, closed.stderr) == (2, b"pktalloc: standard input: it is closed\n")


def test_a_library_that_crashes_is_left_out_and_named(trace: Path, tmp_path: Path) -> None:
    compiler = compiler_for("a bad allocator")
    source, library = tmp_path / "bad.c", tmp_path / "bad.so"
    source.write_text(
        "#include <stdlib.h>\nvoid *malloc(size_t n) { abort(); }\nvoid free(void *p) {}\n"
        "void *realloc(void *p, size_t n) { return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    result = json.loads(run(trace, "--rounds", 1, "--json", "--allocators", f"malloc,{library}").stdout)
    assert result["left_out"] == [{"name": "bad.so", "why": "the process of bad.so ended with SIGABRT"}]
    alone = run(trace, "--allocators", library)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == "pktalloc: bad.so: the process of bad.so ended with SIGABRT\n"


def close(*descriptors: int) -> Callable[[], None]:
    def run_in_child() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return run_in_child


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["replay", "--help"], ["replay", "FILE"]], ids=" ".join)
def test_an_output_that_is_full_is_one_line_and_status_1(trace: Path, words: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    words = [word if word != "FILE" else str(trace) for word in words] + (FAST if "FILE" in words else [])
    command = [sys.executable, "-m", "pktalloc", *words]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, b"pktalloc: standard output: No space left on device\n")
        for unbuffered in "", "1":
            environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
            done = subprocess.run(command, stdout=full, stderr=full, check=False, env=environment)
            assert done.returncode == 1
        done = subprocess.run([*COMMAND, trace.parent], stdout=subprocess.PIPE, stderr=full, check=False)
        assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no preexec_fn on Windows to close a stream with")
def test_outputs_that_are_closed_change_nothing_else(trace: Path, tmp_path: Path) -> None:
    def run_closed(*descriptors: int, file: Path = trace) -> tuple[int, bytes, bytes]:
        done = subprocess.run([*QUICK, file], preexec_fn=close(*descriptors), capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr

    status, out, err = run_closed(2)
    assert (status, err) == (0, b"")
    assert b"pktalloc" in out
    assert run_closed(1) == (1, b"", b"pktalloc: standard output: it is closed\n")
    assert run_closed(1, 2) == (1, b"", b"")
    # What is said goes nowhere, and not to the standard output.
    assert run_closed(2, file=tmp_path) == (2, b"", b"")


def test_without_the_extra_the_command_says_how_to_get_it(trace: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; import pktalloc._cli as c; sys.exit(c.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, "replay", trace], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"pktalloc: the command line needs the package rich: pip install 'pktalloc[cli]'\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_no_memory_is_one_line_and_status_1(tmp_path: Path) -> None:
    def run_within(megabytes: int, file: Path) -> subprocess.CompletedProcess[bytes]:
        limited = ["sh", "-c", f'ulimit -v {megabytes << 10}; exec "$@"', "sh"]
        return subprocess.run([*limited, *QUICK, file], capture_output=True, check=False)

    one, many = tmp_path / "one.csv", tmp_path / "many.csv"
    one.write_text("# dt_us,size\n1,60\n")
    many.write_text("# dt_us,size\n" + "1,60\n" * 2_000_000)
    # Below this, Python itself or its modules do not fit.
    least = next(megabytes for megabytes in range(40, 400, 10) if run_within(megabytes, one).returncode == 0)
    said = set()
    megabytes = least
    while (done := run_within(megabytes, many)).returncode != 0:
        assert (done.returncode, done.stdout) == (1, b""), (megabytes, done.returncode, done.stderr)
        assert done.stderr.count(b"\n") == 1, done.stderr
        said.add(done.stderr.decode().rpartition(": ")[2].strip())
        megabytes += 10
        assert megabytes < least + 200, said
    assert done.stderr == b""
    assert said >= {f"there is no memory for the {what}" for what in ("packets of the trace", "plan of the replay")}
