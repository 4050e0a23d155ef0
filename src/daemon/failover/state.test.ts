import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeState, encodeState, type SavedDaemon, STATE_BYTES_MAX } from './state.ts';

test('a state that no successor would read is not left with the supervisor', () => {
  const state = (mountpoint: string): SavedDaemon => ({
    mountpoint,
    device: {
      session: { version: 1, negotiated: { minor: 31, flags: 0, flags2: 0, maxWriteBytes: 4096 }, parked: [] },
      union: { version: 1, mounts: [] },
      arena: Uint8Array.of(1, 2, 3),
    },
    mounts: [],
  });
  assert.equal(decodeState(encodeState(state('/mnt'))).mountpoint, '/mnt');
  assert.throws(() => encodeState(state('x'.repeat(STATE_BYTES_MAX))), /STATE: .* more than a successor reads/);
});
