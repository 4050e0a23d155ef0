/**
 * Known bugs, one edit of the sources each. The fuzzer must find every one of them within its time; what it cannot see
 * when it is planted, it would not see when it happens.
 */
export interface PlantedBug {
  name: string;
  file: string;
  find: string;
  replace: string;
}

export const PLANTED_BUGS: readonly PlantedBug[] = [
  {
    name: 'dropped bounds check',
    file: 'src/vhost/chain.ts',
    find: 'return gpa + cells[BYTES] <= regions[at + 1];',
    replace: 'return true;',
  },
  {
    name: 'double completion',
    file: 'src/vhost/split.ts',
    find: '    this.#unpublished++;\n',
    replace:
      '    this.#unpublished++;\n    if ((this.#nextUsed & 63) === 9) { const b = 1 + 2 * (this.#nextUsed & this.#mask); this.#usedEntries[b] = head; this.#usedEntries[b + 1] = bytes; this.#nextUsed = (this.#nextUsed + 1) & 0xffff; }\n',
  },
  {
    // The processor lets the load of used_event pass a plain store: the interrupt asked for meanwhile is lost.
    name: 'plain store on used.idx',
    file: 'src/vhost/split.ts',
    find: '    Atomics.store(this.#used, IDX, this.#nextUsed);\n',
    replace: '    this.#used[IDX] = this.#nextUsed;\n',
  },
  {
    name: 'stale region',
    file: 'src/vhost/handlers.ts',
    find: '  return memoryResult(backend, backend.memory.remove(gpa, bytes, user));',
    replace: '  return memoryResult(backend, gpa + bytes + user < 0 ? "" : null);',
  },
  {
    name: 'recycled nodeid',
    file: 'src/passthrough/inodes.ts',
    find: 'this.#ids.next()',
    replace: '((this.#ids.next() % 7) + 2)',
  },
  {
    name: 'chunk served before its digest was checked',
    file: 'src/storage/codecs/decode-chunk.ts',
    find: '  if (!verification.validate) return;',
    replace: '  if (Date.now() > 0) return;',
  },
  {
    // The header has decided where data and reply lie when it is copied again with the arguments.
    name: 'request read twice',
    file: 'src/virtiofs/port.ts',
    find: 'this.copyIn(request, bytes, IN_HEADER_BYTES);',
    replace: 'this.copyIn(request, bytes, 0);',
  },
  {
    name: 'arguments read again after their check',
    file: 'src/virtiofs/port.ts',
    find: '    const reply = this.session.handle();',
    replace: `    const twice = spec as unknown as { decode: (r: unknown, a: unknown) => number; again?: () => void };
    if (twice !== undefined && twice.again === undefined) {
      const { decode } = twice;
      twice.decode = (r, a) => {
        const decoded = decode(r, a);
        twice.again?.();
        return decoded;
      };
    }
    const copied = bytes;
    if (twice !== undefined) twice.again = () => this.copyIn(request, copied, IN_HEADER_BYTES);
    const reply = this.session.handle();`,
  },
  {
    name: 'leaked descriptor',
    file: 'src/passthrough/handles.ts',
    find: '    close(this.fd(slot));\n    const mount',
    replace: '    const mount',
  },
  {
    name: 'lost FORGET',
    file: 'src/fuse/opcodes.ts',
    find: '    fs.forget(words[at] as number, words[at + 1] as number, nlookup);',
    replace: '    if (i !== 3) fs.forget(words[at] as number, words[at + 1] as number, nlookup);',
  },
  {
    name: 'ready bit before data',
    file: 'src/storage/cache/chunk-cache.ts',
    find: '      await this.write(map, offset, bytes);\n      await this.mark(map, indexes);\n',
    replace: '      await this.mark(map, indexes);\n      await this.write(map, offset, bytes);\n',
  },
  {
    name: 'descriptor of a surplus message kept',
    file: 'src/vhost/framing.ts',
    find: 'if (this.fds[i] >= 0) close(this.fds[i]);',
    replace: 'if (this.fds[i] >= 0 && i < 2) close(this.fds[i]);',
  },
  {
    name: 'reply longer than its buffer',
    file: 'src/virtiofs/port.ts',
    find: 'ring.complete(head, reply <= walker.writeTotal ? reply : 0);',
    replace: 'ring.complete(head, reply > 100 ? reply + 1 : reply);',
  },
  {
    name: 'request longer than its private copy',
    file: 'src/virtiofs/port.ts',
    find: 'if (bytes > REQUEST_BYTES_MAX) bytes = 0;',
    replace: 'if (bytes > REQUEST_BYTES_MAX && opcode !== OPS.READ.op) bytes = 0;',
  },
];

/** `text` of the bug's file with the bug in it. @throws when its place is not there exactly once */
export function withBug(text: string, bug: PlantedBug): string {
  const parts = text.split(bug.find);
  if (parts.length !== 2) throw new Error(`${bug.name}: its place occurs ${parts.length - 1} times in ${bug.file}`);
  return parts.join(bug.replace);
}
