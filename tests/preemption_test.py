"""SIGTERM is heard while a run steps, and at no other time."""

import signal
import threading

import pytest

from sora_jax import preemption


def test_it_is_heard_and_its_handler_put_back():
  heard = []
  before = signal.signal(signal.SIGTERM, lambda *call: heard.append(call))
  try:
    with pytest.raises(RuntimeError), preemption.Notice() as notice:
      assert not notice.reached(1)
      signal.raise_signal(signal.SIGTERM)
      assert notice.reached(2) and notice.reached(3)
      raise RuntimeError
    assert not heard
    signal.raise_signal(signal.SIGTERM)
    assert len(heard) == 1
    with preemption.Notice() as again:
      assert not again.reached(1)
  finally:
    signal.signal(signal.SIGTERM, before)


def test_another_thread_hears_of_nothing():
  before, found = signal.getsignal(signal.SIGTERM), []

  def run():
    with preemption.Notice() as notice:
      found.append((notice.reached(1), signal.getsignal(signal.SIGTERM)))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found == [(False, before)]


def test_hosts_end_at_the_step_that_they_agree_on(monkeypatch):
  before = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(preemption.jax, 'process_count', lambda: 2)
  monkeypatch.setattr(
    preemption.multihost_utils,
    'reached_preemption_sync_point',
    lambda step: step == 7,
  )
  with preemption.Notice() as notice:
    assert [step for step in range(10) if notice.reached(step)] == [7]
    assert signal.getsignal(signal.SIGTERM) == before  # JAX has its own


def test_what_it_ends_with_says_so():
  with pytest.raises(SystemExit) as ended:
    raise preemption.Preempted
  assert ended.value.code == 143
