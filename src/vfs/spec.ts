/**
 * What can be mounted. Defined where main and device thread agree on it; the union only hands it through, so this is
 * the one (type-only) look upwards of this room.
 */
export type { MemberSpec, PassthroughSpec, RafsSpec } from '../virtiofs/control.ts';
