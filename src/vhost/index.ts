/**
 * A vhost-user library, usable alone: both roles, guest memory and split virtqueues. README.md is its essay and example.
 */
export { Backend, type BackendOptions, type BackendOwner } from './backend.ts';
export type { BackendRing } from './backend-ring.ts';
export { CHAIN_BYTES_MAX, CHAIN_FAULT, ChainWalker, chainFaultText, SEGMENTS_MAX, WALK } from './chain.ts';
export { type ChainBuffer, DriverRing } from './driver-ring.ts';
export { type FeatureSet, featureNames, featureSet, hasFeature, intersect, PROTOCOL, VIRTIO } from './features.ts';
export { Frontend, FrontendError, type Reply } from './frontend.ts';
export { GuestRam } from './guest-ram.ts';
export { acceptFrontend, adoptSocket, listenAt } from './listener.ts';
export { GuestMemory, type RegionSpec } from './memory.ts';
export { BACKEND_MESSAGES, MESSAGES, type MessageName } from './messages.ts';
export { SplitRing } from './split.ts';
export { BROKEN, EMPTY, RING_FAULT, ringFaultText, type Vring } from './vring.ts';
