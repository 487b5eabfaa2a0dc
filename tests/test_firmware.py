"""The counting firmware: what it prints, read back; counts on emulated cores against instructions counted by hand; serial ports."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest

from nas.deploy.c import emulator, firmware, serial_port
from nas.deploy.c.build import Flags
from nas.deploy.c.printed import read
from nas.errors import BadInput

needs_tools = pytest.mark.skipif(
    not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")),
    reason="needs arm-none-eabi-gcc and qemu-system-arm",
)

PASS = """
nas 1 0000002a 017d7840 00000002 00000001
case ffffffff 0000000000000010 00000000
case 00000000 0000000000000030 00000000
case 00000001 0000000001000010 00000001
image 00000000 0000000000000050 00000000 80017f
end
""".splitlines()


def test_a_pass_is_read():
    printed = read(PASS, 0x2A)
    assert printed.cycles(printed.cases) == [0x20, 0x1000000]
    assert printed.instructions(printed.cases, 128) == [10, 5242880 - 5]  # 3.2 ticks each; a wrap costs five
    assert (printed.hz, printed.outputs) == (25_000_000, (b"\x80\x01\x7f",))


def test_reading_starts_at_the_next_whole_pass():
    garbled = [line.replace("case 00000001", "case 000.0001") for line in PASS]
    assert read([*PASS[3:], *garbled, *PASS[:3], *PASS], 0x2A) == read(PASS, 0x2A)


@pytest.mark.parametrize(
    ("lines", "error", "says"),
    [
        ([], BadInput, "before it had printed everything"),
        (PASS[:-1], BadInput, "before it had printed everything"),
        ([line.replace("0000002a", "0000002b") for line in PASS], BadInput, "another firmware"),
        ([*PASS[:3], "fault", *PASS[3:]], RuntimeError, "processor fault"),
    ],
)
def test_what_is_no_pass_is_one_line(lines, error, says):
    with pytest.raises(error, match=says) as caught:
        read(lines, 0x2A)
    assert "\n" not in str(caught.value)


LOOPS = """
#include "nas_firmware.h"
static void loop(uint32_t n) { __asm volatile(".syntax unified\\n1: subs %0, #1\\nbne 1b" : "+l"(n) : : "cc"); }
static void once(void) { __asm volatile("nop"); }
static void few(void) { loop(10); }
static void more(void) { loop(11); }
static void many(void) { loop(6000000); }  /* longer than SysTick's 24 bits */
static void many_more(void) { loop(6000001); }
const nas_case nas_cases[] = {once, few, more, many, many_more};
const uint32_t nas_case_count = 5, nas_identity = 7, nas_image_bytes = 0, nas_output_bytes = 0;
void nas_before(uint32_t index) { (void)index; }
void (*const nas_run)(const int8_t *) = 0;
int8_t nas_output[1];
"""


@needs_tools
@pytest.mark.parametrize("core", list(emulator.MACHINES))
def test_instructions_are_counted_exactly(core, tmp_path):
    (tmp_path / "cases.c").write_text(LOOPS)
    elf = firmware.linked(tmp_path, [tmp_path / "cases.c"], Flags(core=core))
    printed = emulator.run(elf, core, 7)
    once, few, more, many, many_more = printed.instructions(printed.cases, emulator.NS)
    assert (once, few, more) == (1, 21, 23)  # few: the constant, and two instructions ten times
    assert many_more - many == 2
    assert 12_000_001 <= many <= 12_000_003  # a large constant takes one to three
    assert printed.cases[3].wraps in (1, 2)


@needs_tools
def test_firmware_that_hangs_faults_or_does_not_fit_is_one_line(tmp_path):
    def made(body: str, timeout_s: float = 120) -> None:
        text = LOOPS.replace('__asm volatile("nop")', body)
        (tmp_path / "cases.c").write_text(text)
        elf = firmware.linked(tmp_path, [tmp_path / "cases.c"], Flags(core="cortex-m3"))
        emulator.run(elf, "cortex-m3", 7, timeout_s=timeout_s)

    with pytest.raises(RuntimeError, match="did not end within 1 s"):
        made("for (;;) {}", timeout_s=1)
    with pytest.raises(RuntimeError, match="processor fault"):
        made("*(volatile int *)0x90000000 = 1")
    with pytest.raises(RuntimeError, match=r"RAM.* overflowed by \d+ bytes"):
        made("static volatile int8_t large[5000000]; (void)++large[0]")


@pytest.fixture
def terminal():
    """The board's end and the name of ours."""
    board, ours = os.openpty()
    yield board, os.ttyname(ours)
    os.close(board)
    os.close(ours)


def test_a_pass_is_read_from_a_serial_port(terminal):
    board, port = terminal

    def prints() -> None:
        for part in ("0000 00000000\r\nend\r\n", "\r\n".join(PASS[:4]), "\r\n" + "\r\n".join(PASS[4:]) + "\r\n"):
            os.write(board, part.encode())
            time.sleep(0.05)

    thread = threading.Thread(target=prints)
    thread.start()
    assert read(serial_port.lines(port, 60), 0x2A) == read(PASS, 0x2A)
    thread.join()


def test_serial_ports_that_do_not_work_are_one_line(terminal, tmp_path):
    with pytest.raises(BadInput, match=r"silent for 0\.1 s"):
        next(serial_port.lines(terminal[1], 0.1))
    with pytest.raises(BadInput, match="cannot open the serial port"):
        next(serial_port.lines(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="not a serial port"):
        next(serial_port.lines(tmp_path / "file"))
