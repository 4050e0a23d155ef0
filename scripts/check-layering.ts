/**
 * Checks what the types cannot say, over all files of src/:
 *  - imports point down the list of rooms (architecture.md, "Rooms");
 *  - code of the device thread, whose event loop never runs, uses nothing that waits for one;
 *  - packages with a native part are imported only by the room they belong to.
 * Prints every breach and exits with 1 when there is any.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

/** From top to bottom; rooms in one line may know each other. */
const ROOMS: readonly (readonly string[])[] = [
  ['cli'],
  ['daemon', 'api'],
  ['virtiofs'],
  ['vfs'],
  ['passthrough'],
  ['image', 'oci'],
  ['rafs'],
  ['storage'],
  ['fuse'],
  ['vhost'],
  ['sys'],
  ['common'],
];

/** Package → rooms that may import it. */
const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  koffi: ['sys'],
  undici: ['storage', 'oci'],
  'zstd-napi': ['storage', 'image'],
  'lz4-napi': ['storage', 'image'],
};

/**
 * Files that run on the device thread. `except` are files of these folders that only the main thread (or nobody in the
 * daemon) uses.
 */
const DEVICE_THREAD: readonly { under: string; except: readonly string[]; why: string }[] = [
  { under: 'src/sys/', except: ['src/sys/pool.ts', 'src/sys/libc.ts'], why: 'pool calls are for the main thread' },
  {
    under: 'src/vhost/',
    except: ['src/vhost/frontend.ts'],
    why: 'the frontend plays the VMM, in tests and benchmarks',
  },
  { under: 'src/fuse/', except: [], why: '' },
  { under: 'src/passthrough/', except: [], why: '' },
  { under: 'src/vfs/', except: [], why: '' },
  { under: 'src/virtiofs/', except: [], why: '' },
  {
    under: 'src/rafs/',
    except: ['src/rafs/open-image.ts', 'src/rafs/chunk-digests.ts'],
    why: 'images are opened, and digests looked up, on the main thread',
  },
];

const NEEDS_EVENT_LOOP =
  /\b(async|await|Promise|setTimeout|setInterval|setImmediate|queueMicrotask|nextTick|console)\b/;
/** Test code may import what it likes and wait as it likes. */
const TEST_FILE = /\.(test|suite|testing|bench)\.ts$|\/testing\//;
const IMPORT = /(?:\bfrom|\bimport|\bimport\()\s*(['"])([^'"]+)\1/g;

const breaches: string[] = [];

for (const file of listFiles(join(ROOT, 'src'))) {
  const path = relative(ROOT, file);
  if (TEST_FILE.test(path)) continue;
  const text = readFileSync(file, 'utf8');
  checkImports(path, text);
  checkDeviceThread(path, text);
}

for (const breach of breaches) process.stdout.write(`${breach}\n`);
process.stdout.write(`layering: ${breaches.length === 0 ? 'ok' : `${breaches.length} breaches`}\n`);
process.exitCode = breaches.length === 0 ? 0 : 1;

function listFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => join(entry.parentPath, entry.name));
}

function checkImports(path: string, text: string): void {
  const room = roomOf(path);
  const level = levelOf(room);
  if (level < 0) {
    breaches.push(`${path}: folder ${room} is in no line of the list of rooms`);
    return;
  }
  for (const [, , target] of text.matchAll(IMPORT)) {
    if (target!.startsWith('.')) {
      const to = normalize(join(dirname(path), target!));
      if (TEST_FILE.test(to)) breaches.push(`${path}: imports test code ${to}`);
      else if (levelOf(roomOf(to)) < level) breaches.push(`${path}: imports ${to}, which is above ${room}`);
      continue;
    }
    const allowed = PACKAGES[target!];
    if (allowed !== undefined && !allowed.includes(room))
      breaches.push(`${path}: ${target} is for ${allowed.join(', ')} only`);
  }
}

function checkDeviceThread(path: string, text: string): void {
  const rule = DEVICE_THREAD.find(({ under }) => path.startsWith(under));
  if (rule === undefined || rule.except.includes(path)) return;
  const lines = withoutCommentsAndTexts(text).split('\n');
  lines.forEach((line, i) => {
    const found = NEEDS_EVENT_LOOP.exec(line);
    if (found !== null)
      breaches.push(`${path}:${i + 1}: ${found[1]} on the device thread, whose event loop never runs`);
  });
}

/** Blanks comments and string contents; line numbers stay. Template texts stay too: code may hide in them. */
function withoutCommentsAndTexts(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"/g, (match) =>
    match.replace(/[^\n]/g, ' '),
  );
}

function roomOf(path: string): string {
  return path.split('/')[1] ?? '';
}

function levelOf(room: string): number {
  return ROOMS.findIndex((line) => line.includes(room));
}
