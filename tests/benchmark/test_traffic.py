"""Bytes that programs read and write are counted, and compared with counts by hand."""

import jax
import jax.numpy as jnp

from eomt_jax.benchmark import hlo, traffic


def module(body, computations=""):
    return hlo.read(
        f"HloModule m\n\n{computations}\nENTRY %main (a: f32[8]) -> f32[8] {{\n{body}}}\n"
    )


def test_kernels_read_operands_and_write_results():
    text = """  %a = f32[8,4]{1,0} parameter(0)
  %b = bf16[4,16]{1,0} parameter(1)
  %c = f32[8,16]{1,0} dot(%a, %b)
  %t = (f32[8,16]{1,0}, f32[8,4]{1,0}) tuple(%c, %a)
  %g = f32[8,16]{1,0} get-tuple-element(%t), index=0
  %v = f32[128]{0} bitcast(%g)
  ROOT %n = f32[128]{0} negate(%v)
"""
    assert traffic.bytes_accessed(module(text)) == (128 + 128 + 512) + (512 + 512)


def test_slices_and_updates_move_only_their_part():
    text = """  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %s = f32[1,8]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,8}
  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%a, %s, %i, %i)
"""
    assert traffic.bytes_accessed(module(text)) == 2 * 32 + 2 * 32


FUSED = """%fused (p: f32[100,8], q: s32[], r: f32[1,8]) -> f32[100,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %q = s32[] parameter(1)
  %r = f32[1,8]{1,0} parameter(2)
  %old = f32[1,8]{1,0} dynamic-slice(%p, %q, %q), dynamic_slice_sizes={1,8}
  %new = f32[1,8]{1,0} add(%old, %r)
  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%p, %new, %q, %q)
}

%whole (p: f32[100,8]) -> f32[8] {
  %p.1 = f32[100,8]{1,0} parameter(0)
  %first = f32[1,8]{1,0} slice(%p.1), slice={[0:1], [0:8]}
  ROOT %all = f32[8]{0} reduce(%p.1, %first), dimensions={0}, to_apply=%add
}
"""


def test_fusions_in_place_move_only_their_part():
    text = """  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = f32[1,8]{1,0} parameter(2)
  ROOT %f = f32[100,8]{1,0} fusion(%a, %i, %x), kind=kLoop, calls=%fused
"""
    # The slice, the index and the addend are read, and the slice is written.
    assert traffic.bytes_accessed(module(text, FUSED)) == 32 + 4 + 32 + 32


def test_operand_that_is_sliced_and_read_counts_whole():
    text = """  %a = f32[100,8]{1,0} parameter(0)
  ROOT %f = f32[8]{0} fusion(%a), kind=kInput, calls=%whole
"""
    assert traffic.bytes_accessed(module(text, FUSED)) == 3200 + 32


def test_loops_count_as_often_as_they_run():
    body = """%body (i: f32[8]) -> f32[8] {
  %i = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%i)
}

%condition (i: f32[8]) -> pred[] {
  ROOT %p = pred[] parameter(0)
}
"""
    text = """  %a = f32[8]{0} parameter(0)
  ROOT %w = f32[8]{0} while(%a), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
"""
    assert traffic.bytes_accessed(module(text, body)) == 5 * 64


def test_one_branch_of_a_conditional_counts():
    branches = """%small (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%x)
}

%large (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  %m = f32[8]{0} negate(%y)
  ROOT %o = f32[8]{0} negate(%m)
}
"""
    text = """  %a = f32[8]{0} parameter(0)
  ROOT %c = f32[8]{0} conditional(%i, %a, %a), branch_computations={%small, %large}
"""
    assert traffic.bytes_accessed(module(text, branches)) == 2 * 64


def test_workspaces_of_libraries_move_nothing():
    text = """  %a = bf16[8,8]{1,0} parameter(0)
  ROOT %c = (bf16[8,8]{1,0}, s8[4194304]{0}) custom-call(%a, %a), \
custom_call_target="__cublas$lt$matmul"
"""
    assert traffic.bytes_accessed(module(text)) == 3 * 128


KERNELS = """  %a = bf16[2,8,4,64]{3,2,1,0} parameter(0)
  %f = (bf16[2,8,4,64]{3,1,2,0}, u8[0]{0}) custom-call(%a, %a, %a), \
custom_call_target="__cudnn$fmhaSoftmax"
  %b = (bf16[2,8,4,64]{3,1,2,0}, u8[0]{0}) custom-call(%a, %a, %a), \
custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %s = bf16[2,8,4,64]{3,1,2,0} custom-call(%a), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(f)/shard_map/splash_mha_fwd_residuals/pallas_call"}
  %splash_mha_fwd_no_residuals.24 = bf16[2,8,4,64]{3,2,1,0} custom-call(%a), \
custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/splash_mha_fwd_no_residuals/pallas_call"}
  ROOT %m = (bf16[8,8]{1,0}, s8[256]{0}) custom-call(%a), \
custom_call_target="__cublas$gemm"
"""


def test_attention_kernels_are_found_by_their_names():
    assert traffic.attention_kernels(module(KERNELS)) == {
        "cuDNN forward": 1,
        "cuDNN backward": 1,
        "splash forward": 2,
    }
    assert (
        traffic.attention_kernels(module("  ROOT %a = f32[8]{0} parameter(0)\n")) == {}
    )


def test_largest_array_is_one_that_is_computed():
    text = """  %a = f32[1000]{0} parameter(0)
  %b = bf16[1600]{0} copy(%c)
  ROOT %d = f32[700]{0} negate(%b)
"""
    assert str(traffic.largest_array(module(text))) == "bf16[1600]"


def test_real_program_reads_and_writes_what_it_must():
    x, y = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((64, 32), (32, 16)))
    compiled = jax.jit(jnp.matmul).lower(x, y).compile()
    moved = traffic.bytes_accessed(hlo.read(compiled.as_text()))
    assert moved == 4 * (64 * 32 + 32 * 16 + 64 * 16)
