import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync } from 'node:zlib';
import { format, LINE_BYTES_MAX, LogWriter, QUEUE_BYTES_MAX } from './log-writer.ts';

describe('format', () => {
  test('has the shape of nydusd', () => {
    assert.match(
      format('info', 'hello').toString(),
      /^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} \+00:00\] INFO hello\n$/,
    );
  });
  test('is one line, whatever the text', () => {
    const line = format('warn', 'a\nb\tc\x1b[31md\r\u0085e').toString();
    assert.ok(line.endsWith('WARN a\\nb c\\x1b[31md\\x0d\\x85e\n'), line);
  });
  test('is bounded, also in multi-byte text', () => {
    for (const text of ['x'.repeat(1 << 20), '€'.repeat(100_000)]) {
      const line = format('error', text);
      assert.ok(line.length <= LINE_BYTES_MAX);
      assert.ok(line.toString().endsWith('...\n'));
    }
  });
});

describe('writing', () => {
  let dir: string;
  let fifo: string;
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'log-writer-'));
    fifo = join(dir, 'fifo');
    execFileSync('mkfifo', [fifo]);
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const reader = () => openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = () => openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK);
  const readAll = (fd: number): string => {
    const buffer = Buffer.alloc(1 << 20);
    let text = '';
    for (;;) {
      try {
        const n = readSync(fd, buffer);
        if (n === 0) return text;
        text += buffer.toString('utf8', 0, n);
      } catch {
        return text;
      }
    }
  };

  test('levels are a threshold', () => {
    const path = join(dir, 'log');
    const log = LogWriter.file(path, 'info', 0);
    log.debug('unseen');
    log.info('seen');
    log.setLevel('debug');
    log.debug('seen too');
    log.trace('unseen');
    log.close();
    assert.deepEqual(readFileSync(path, 'utf8').match(/seen.*/g), ['seen', 'seen too']);
  });

  test('a reader that stops loses lines, is told how many, and never stops us', async () => {
    const end = reader();
    const log = new LogWriter(writer(), false, 'info');
    const startedAt = performance.now();
    const lines = 20_000;
    for (let i = 0; i < lines; i++) log.info(`line ${i} ${'x'.repeat(100)}`);
    assert.ok(performance.now() - startedAt < 5000);
    assert.ok(log.dropped > 0);
    let text = '';
    for (let i = 0; i < 200 && !text.includes('were dropped'); i++) {
      text += readAll(end);
      await sleep(10);
    }
    const kept = text.match(/INFO line \d+/g)!;
    assert.equal(kept.length + log.dropped, lines);
    assert.ok(kept.length * 100 > QUEUE_BYTES_MAX / 2, 'the queue was used');
    assert.ok(text.includes(`${log.dropped} log lines were dropped`), text.slice(-200));
    assert.equal(kept[0], 'INFO line 0');
    log.close();
    closeSync(end);
  });

  test('lines that a thread of the pool writes are out after a flush, and a reader that stops ends it too', async () => {
    const end = reader();
    const slow = new LogWriter(writer(), true, 'info');
    for (const word of ['first', 'second', 'last']) slow.info(word);
    await slow.flush(10_000);
    slow.close();
    assert.deepEqual(readAll(end).match(/(?<=INFO )\w+/g), ['first', 'second', 'last']);
    const stuck = new LogWriter(writer(), false, 'info');
    while (stuck.dropped === 0) stuck.info('x'.repeat(1000));
    await stuck.flush(20);
    stuck.close();
    closeSync(end);
  });

  test('a reader that has gone away is no error', () => {
    const end = reader();
    const log = new LogWriter(writer(), false, 'info');
    closeSync(end);
    log.info('nobody hears');
    log.info('this');
    assert.equal(log.dropped, 2);
  });

  test('errors are remembered for the events of the API, within limits', () => {
    const log = new LogWriter(-1, false, 'info');
    for (let i = 0; i < 600; i++) log.error(`bad ${i} ${'y'.repeat(200)}`);
    const events = log.errorEvents();
    assert.equal(events.total_errors, 600);
    assert.ok(events.errors.length <= events.max_errors);
    assert.ok(events.total_size <= events.max_size && events.total_size > events.max_size / 2);
    assert.match(events.errors.at(-1)!, /GMT - bad 599/);
  });
});

test('a file that is full is put aside and compressed, the newest ten stay, no line is lost of them', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'log-rotation-'));
  try {
    const path = join(dir, 'nydusd.log');
    const line = 'x'.repeat(200);
    writeFileSync(path, 'of an earlier run\n');
    const log = LogWriter.file(path, 'info', 1000);
    for (let i = 0; i < 60; i++) {
      log.info(`${i} ${line}`);
      if (i % 4 === 3) await sleep(5);
    }
    const packed = () => readdirSync(dir).filter((name) => name.endsWith('.gz'));
    const isDone = () => packed().length === 10 && readdirSync(dir).length === 11;
    for (let i = 0; i < 200 && !isDone(); i++) await sleep(10);
    log.close();
    assert.deepEqual(readdirSync(dir).length, 11);
    const texts = [
      ...packed()
        .sort()
        .map((name) => gunzipSync(readFileSync(join(dir, name))).toString()),
      readFileSync(path, 'utf8'),
    ];
    const numbers = texts
      .join('')
      .match(/INFO \d+/g)!
      .map((found) => Number(found.slice(5)));
    assert.ok(numbers.length >= 40, `${numbers.length}`);
    assert.deepEqual(
      numbers,
      numbers.map((_, i) => 60 - numbers.length + i),
    );
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('a file that somebody else has put aside is made anew when it is full', () => {
  const dir = mkdtempSync(join(tmpdir(), 'log-rotation-'));
  try {
    const path = join(dir, 'nydusd.log');
    const log = LogWriter.file(path, 'info', 1000);
    renameSync(path, join(dir, 'aside'));
    for (let i = 0; i < 8; i++) log.info(`${i} ${'x'.repeat(200)}`);
    log.close();
    assert.match(readFileSync(path, 'utf8'), /INFO 7 /);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
