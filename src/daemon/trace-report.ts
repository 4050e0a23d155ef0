/** What was read of a mounted image, as an access trace: `GET /api/v1/trace`. Loaded with the first question. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { readAccessLog } from '../rafs/access-log.ts';
import { FileChunks, type NamedNode } from '../rafs/file-chunks.ts';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';
import type { AccessTrace, TracedFile } from './access-trace.ts';

/** JSON text of one trace; what was read later is left out. */
const TEXT_BYTES_MAX = 1 << 20;
/** `,[,]` and digits of two numbers. */
const RANGE_BYTES = 24;
const FILE_BYTES = 24;
/** Nodes looked at in one turn of the event loop, some milliseconds. */
const STEPS_PER_TURN = 512;

/** An open image whose reads are written down. */
export interface TracedImage {
  path: string;
  bootstrap: Bootstrap;
  bootstrapFd: number;
  log: SharedArrayBuffer;
}

/** Files in the order they were first read; in each, its ranges in that order, neighbours as one. */
export async function traceOf(image: TracedImage): Promise<AccessTrace> {
  const chunksOf = new Map<number, number[]>();
  for (const { node, k } of readAccessLog(image.log)) {
    const chunks = chunksOf.get(node);
    if (chunks === undefined) chunksOf.set(node, [k]);
    else chunks.push(k);
  }
  const { bootstrap } = image;
  const reader = FileChunks.open(image.bootstrapFd, image.path, bootstrap.geometry, bootstrap.blobs);
  try {
    const names = await named(reader, new Set(chunksOf.keys()));
    const files: TracedFile[] = [];
    let room = TEXT_BYTES_MAX;
    for (const [node, chunks] of chunksOf) {
      const name = names.get(node);
      if (name === undefined) continue;
      const ranges = rangesOf(chunks, reader.chunkSize, name.bytes);
      room -= FILE_BYTES + JSON.stringify(name.path).length + ranges.length * RANGE_BYTES;
      if (room < 0) break;
      files.push({ path: name.path, ranges });
    }
    return { version: 'v1', files };
  } finally {
    reader.close();
  }
}

async function named(reader: FileChunks, nodes: ReadonlySet<number>): Promise<Map<number, NamedNode>> {
  const names = new Map<number, NamedNode>();
  let steps = 0;
  for (const found of reader.pathsOf(nodes)) {
    if (found !== null) names.set(found.node, found);
    if (++steps % STEPS_PER_TURN === 0) await nextTurn();
  }
  return names;
}

function rangesOf(chunks: readonly number[], chunkSize: number, fileBytes: number): [number, number][] {
  const ranges: [number, number][] = [];
  for (const k of chunks) {
    const offset = k * chunkSize;
    const bytes = Math.min(chunkSize, fileBytes - offset);
    const last = ranges.at(-1);
    if (last !== undefined && last[0] + last[1] === offset) last[1] += bytes;
    else ranges.push([offset, bytes]);
  }
  return ranges;
}
