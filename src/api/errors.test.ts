/** The table of kata-contract 4.2, row by row, as far as it depends on nothing but the error; texts are literal. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { daemonError } from '../daemon/errors.ts';
import { badRequest, missingQuery, noRoute, toHttp, type Wrapper } from './errors.ts';

describe('every row of the table', () => {
  const rows: [wrapper: Wrapper, error: Error, status: number, message: string][] = [
    ['Configure', noRoute(), 404, 'NoRoute'],
    ['Mount', badRequest(), 400, 'BadRequest'],
    ['Mount', missingQuery('mountpoint'), 400, `QueryString("'mountpoint' should be specified in query string")`],
    [
      'Mount',
      daemonError('MOUNT_EXISTS', { path: '/x' }),
      500,
      'Mount(MountFilesystem(Other("object or filesystem already exists")))',
    ],
    [
      'Mount',
      daemonError('MOUNT_UNKNOWN', { path: '/x' }),
      500,
      `Mount(MountFilesystem(Other("object or filesystem doesn't exist")))`,
    ],
    [
      'Mount',
      daemonError('FS_TYPE', { fsType: 'ext4' }),
      500,
      `Mount(MountFilesystem(Other("invalid argument \`only 'rafs' and 'passthrough_fs' are supported, but ext4 was specified\`")))`,
    ],
    [
      'Mount',
      daemonError('MOUNT_NOT_RAFS', { path: '/x' }),
      500,
      'Mount(MountFilesystem(Other("filesystem type mismatch, expect RAFS")))',
    ],
    [
      'Mount',
      daemonError('PREFETCH_LIST', { reason: 'x' }),
      500,
      'Mount(MountFilesystem(Other("invalid prefetch file list")))',
    ],
    ['Mount', daemonError('NOT_READY', { state: 'INIT' }), 503, 'Mount(MountFilesystem(NotReady))'],
    ['Upgrade', daemonError('UNSUPPORTED', { what: 'sendfd' }), 501, 'Upgrade(DaemonAbnormal(Unsupported))'],
    ['GetBlobObjects', daemonError('UNSUPPORTED', { what: 'x' }), 501, 'GetBlobObjects(DaemonAbnormal(Unsupported))'],
    [
      'Upgrade',
      daemonError('WRONG_STATE', { event: 'Takeover', state: 'RUNNING' }),
      400,
      'Upgrade(DaemonAbnormal(UnexpectedEvent("Takeover")))',
    ],
    [
      'Configure',
      daemonError('WRONG_STATE', { event: 'Start', state: 'RUNNING' }),
      400,
      'Configure(DaemonAbnormal(UnexpectedEvent("Start")))',
    ],
    ...(['BackendMetrics', 'BlobcacheMetrics', 'GlobalMetrics', 'FsFilesMetrics', 'Pattern'] as const).map(
      (wrapper): [Wrapper, Error, number, string] => [
        wrapper,
        daemonError('NO_COUNTER', { id: '/x' }),
        404,
        `${wrapper}(Metrics(Stats(NoCounter)))`,
      ],
    ),
    ['Configure', daemonError('LOG_LEVEL', { level: 'loud' }), 500, 'Configure(ResponsePayloadType)'],
    ['DaemonInfo', new Error('of the daemon'), 500, 'DaemonInfo(DaemonAbnormal(Other("of the daemon")))'],
    ['Mount', new Error('say "why"'), 500, String.raw`Mount(MountFilesystem(Other("say \"why\"")))`],
  ];
  for (const [wrapper, error, status, message] of rows) {
    test(`${status} ${message}`, () => assert.deepEqual(toHttp(wrapper, error), { status, message }));
  }
});
