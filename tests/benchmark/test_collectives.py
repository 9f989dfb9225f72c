"""The bytes that devices send one another are read from compiled programs."""

import jax
from jax.sharding import NamedSharding, PartitionSpec

from eomt_jax.benchmark import hlo
from eomt_jax.benchmark.collectives import Collective, add_up, collectives
from eomt_jax.parallel.mesh import MeshOptions, create_mesh

# The program has a scan of ten passes, each with one reduction over four devices, and a
# gather of eight floats that is written in two pieces.
PROGRAM = """HloModule jit_f, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
}

%body (p: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %p = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)}) parameter(0)
  %all-reduce.1 = f32[16,8]{1,0:T(8,128)} all-reduce(%p), channel_id=1, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, to_apply=%add
}

%condition (p: (s32[], f32[16,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(10)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%piece (p: bf16[4]) -> bf16[8] {
  ROOT %gather.1 = bf16[8]{0} all-gather(%p), channel_id=2, replica_groups=[4,2]<=[8]
}

ENTRY %main (a: f32[16,8]) -> f32[16,8] {
  %w = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)}) while(%t), condition=%condition, \
body=%body, metadata={op_name="jit(f)/while"}
  %g = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%p), channel_id=2, \
replica_groups=[4,2]<=[8]
  %f = bf16[8]{0} fusion(%g), kind=kCustom, calls=%piece
  ROOT %s = f32[4,8]{1,0} reduce-scatter(%f), channel_id=3, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
"""


def test_collectives_are_summed_by_kind_with_loops_and_without_repeats():
    found = {part.kind: part for part in collectives(hlo.read(PROGRAM))}
    assert found == {
        # Twice three quarters of 512 bytes leave each device, ten times.
        "all-reduce": Collective("all-reduce", 10, 5120, 7680.0),
        "all-gather": Collective("all-gather", 1, 16, 8.0),
        "reduce-scatter": Collective("reduce-scatter", 1, 512, 384.0),
    }
    twice = add_up([*found.values(), found["all-gather"]])
    assert [part.kind for part in twice] == [
        "all-gather",
        "all-reduce",
        "reduce-scatter",
    ]
    assert twice[0] == Collective("all-gather", 2, 32, 16.0)


def test_collectives_of_a_real_program():
    mesh = create_mesh(MeshOptions(fsdp=4), devices=jax.devices()[:4])
    split = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.ShapeDtypeStruct((8, 16), "float32", sharding=split)
    compiled = jax.jit(lambda x: x.sum(0)).lower(x).compile()
    assert collectives(hlo.read(compiled.as_text())) == [
        Collective("all-reduce", 1, 64, 96.0)
    ]
