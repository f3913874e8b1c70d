"""Bytes of collectives, from the text of programs."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

from sora_jax import sharding, traffic

TEXT = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fetch (p: bf16[2,8]) -> bf16[8,8] {
  %p = bf16[2,8]{1,0} parameter(0)
  ROOT %g = bf16[8,8]{1,0:T(8,128)(2,1)} all-gather(%p), dimensions={0}
}

%layer (s: (s32[], f32[4])) -> (s32[], f32[4]) {
  %s = (s32[], f32[4]{0}) parameter(0)
  %x = bf16[2,8]{1,0} constant({...})
  %start = ((bf16[2,8]{1,0}), bf16[8,8]{1,0}) async-start(%x), calls=%fetch
  %done = bf16[8,8]{1,0} async-done(%start), calls=%fetch
  %r = f32[4]{0} all-reduce(%f), channel_id=1, to_apply=%add
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %r)
}

%more (s: (s32[], f32[4])) -> pred[] {
  %s = (s32[], f32[4]{0}) parameter(0)
  %n = s32[]{:T(128)} constant(30)
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

%all-reduce-scatter.1 (p: f32[8]) -> f32[2] {
  %p = f32[8]{0} parameter(0)
  %whole = f32[8]{0} all-reduce(%p), to_apply=%add
  ROOT %part = f32[2]{0} dynamic-slice(%whole, %me)
}

ENTRY %main (x: f32[16]) -> f32[4] {
  %x = f32[16]{0} parameter(0)
  %cut = f32[4]{0} reduce-scatter(%x), dimensions={0}, to_apply=%add
  %two = f32[2]{0} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.1
  %w = (s32[], f32[4]{0}) while(%init), condition=%more, body=%layer
  %ps = (f32[4]{0}, f32[4]{0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%cut)
  %as = (f32[2]{0}, f32[4]{0}) all-reduce-start(%two, %cut), to_apply=%add
  ROOT %pd = f32[4]{0} collective-permute-done(%ps)
}
"""


def test_a_loop_sends_as_often_as_it_goes_round():
  assert traffic.of(TEXT) == {
    'all-gather': 30 * 8 * 8 * 2,
    'reduce-scatter': 16 * 4 + 8 * 4,
    'all-reduce': 30 * 4 * 4 + 2 * 4 + 4 * 4,
    'collective-permute': 4 * 4,
  }


def test_a_program_of_eight_devices_sends_what_it_must():
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8))
  row = NamedSharding(mesh, P('fsdp'))

  def step(x, kernels):  # rows of a batch, and kernels of five layers
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, kernels)[0]

  x = jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=row)
  kernels = jax.ShapeDtypeStruct(
    (5, 64, 64), jnp.float32, sharding=NamedSharding(mesh, P(None, 'fsdp'))
  )
  run = jax.jit(step, out_shardings=row)
  sent = traffic.of(run.lower(x, kernels).compile().as_text())
  assert sent == {'all-gather': 5 * 64 * 64 * 4}
