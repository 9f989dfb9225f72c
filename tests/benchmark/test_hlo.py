"""The text of compiled programs is read."""

import pytest

from eomt_jax.benchmark import hlo

# The program has a loop of twelve passes by a GPU's compiler, a loop that is counted by
# its condition, a branch, and kernels that call computations of their own.
PROGRAM = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p: f32[8]) -> f32[8] {
  %p.1 = f32[8]{0} parameter(0)
  ROOT %double = f32[8]{0} add(%p.1, %p.1)
}

%inner_body (i: s32[]) -> s32[] {
  %i.1 = s32[] parameter(0)
  ROOT %f.1 = f32[8]{0} fusion(%i.1), kind=kLoop, calls=%fused
}

%inner_condition (i: s32[]) -> pred[] {
  %i.2 = s32[] parameter(0)
  %limit = s32[] constant(3)
  ROOT %lt = pred[] compare(%i.2, %limit), direction=LT
}

%body (i: s32[]) -> s32[] {
  %i.3 = s32[] parameter(0)
  ROOT %w.1 = s32[] while(%i.3), condition=%inner_condition, body=%inner_body
}

%condition (i: s32[]) -> pred[] {
  ROOT %c = pred[] fusion(%i.4), kind=kLoop, calls=%compared
}

%compared (i: s32[]) -> pred[] {
  ROOT %i.5 = pred[] parameter(0)
}

%branch (x: f32[8]) -> f32[8] {
  ROOT %x.2 = f32[8]{0} parameter(0)
}

ENTRY %main (a: f32[8], b: (f32[8], s32[])) -> (f32[8], s8[16]) {
  %a = f32[8]{0} parameter(0)
  %w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"},"known_init_step":{"init":"0"}}
  %r = f32[] reduce(%a, %zero), dimensions={0}, to_apply=%add
  %b = f32[8]{0} conditional(%p, %a, %a), true_computation=%branch, \
false_computation=%branch
  ROOT %t.1 = (f32[8]{0}, s8[16]{0}) custom-call(%a, /*index=1*/%b), \
custom_call_target="f", metadata={op_name="jit(f)/call(%no)"}
}
"""


def test_computations_run_as_often_as_loops_say():
    module = hlo.read(PROGRAM)
    assert module.entry == "main"
    assert module.runs["inner_body"] == module.runs["fused"] == 36
    assert module.runs["body"] == module.runs["condition"] == 12
    assert module.runs["branch"] == 2 and module.runs["add"] == 1


def test_bodies_of_kernels_are_not_scheduled():
    scheduled = hlo.read(PROGRAM).scheduled
    assert scheduled["inner_body"] == 36 and scheduled["branch"] == 2
    assert not scheduled.keys() & {"fused", "compared", "add"}


def test_instructions_are_read_with_operands_and_arrays():
    call = hlo.read(PROGRAM).computations["main"][-1]
    assert (call.name, call.operation) == ("t.1", "custom-call")
    assert call.operands == ("a", "b")
    assert call.arrays == (hlo.Array("f32", (8,)), hlo.Array("s8", (16,)))
    assert call.bytes == 48
    assert str(call.arrays[0]) == "f32[8]"


def test_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.read("module { func.func @main() }")


TOO_LARGE = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in
memory space hbm. Used 20.00G of 15.75G hbm. Exceeded hbm capacity by 4.25G."""
MUCH_TOO_LARGE = """E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory
required for HLO temporaries (521.56G) exceeds available HBM (15.75G)."""


@pytest.mark.parametrize(
    "message, expected",
    [
        (TOO_LARGE, (20.0 * 2**30, 15.75 * 2**30)),
        (MUCH_TOO_LARGE, (521.56 * 2**30, 15.75 * 2**30)),
        ("INTERNAL: something else", None),
    ],
)
def test_excess_of_memory_is_read_from_the_compiler(message, expected):
    assert hlo.memory_excess(message) == expected
