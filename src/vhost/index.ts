/**
 * A vhost-user library, usable alone: both roles, guest memory and split virtqueues. README.md is its essay and example.
 *
 * The last exports come from `src/sys`: what a device loop needs to wait and to copy.
 */

export { copyMemory } from '../sys/io.ts';
export type { Window } from '../sys/memory.ts';
export { NativeMemory } from '../sys/native-memory.ts';
export { drain, EPOLL, Epoll, eventfd, notify, POLL, pollOne } from '../sys/wait.ts';
export { Backend } from './backend.ts';
export type { BackendOptions, BackendOwner } from './backend-owner.ts';
export type { BackendRing } from './backend-ring.ts';
export { CHAIN_BYTES_MAX, CHAIN_FAULT, ChainWalker, chainFaultText, SEGMENTS_MAX, WALK } from './chain.ts';
export { cut, fragmented, merged } from './chain-shapes.ts';
export { type ChainBuffer, DriverRing } from './driver-ring.ts';
export { type FeatureSet, featureNames, featureSet, hasFeature, intersect, PROTOCOL, VIRTIO } from './features.ts';
export { Frontend, FrontendError, type Reply } from './frontend.ts';
export { GuestRam } from './guest-ram.ts';
export { acceptFrontend, adoptSocket, listenAt } from './listener.ts';
export { GuestMemory, type RegionSpec } from './memory.ts';
export { BACKEND_MESSAGES, MESSAGES, type MessageName } from './messages.ts';
export { SplitRing } from './split.ts';
export { BROKEN, EMPTY, RING_FAULT, ringFaultText, type Vring } from './vring.ts';
