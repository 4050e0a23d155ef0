/**
 * A file system that answers without doing anything, on our device: the ceiling of ring, session and loop. Started as
 * `null-device.cjs SOCKET`; this process's one thread is the device thread, and it runs until it is killed.
 */
import type * as A from '../src/fuse/args.ts';
import type { Result } from '../src/fuse/file-system.ts';
import { Request } from '../src/fuse/request.ts';
import { Stats } from '../src/fuse/stats.ts';
import { ATTR_OUT_BYTES, ENTRY_OUT_BYTES, OPEN_OUT_BYTES, STATFS_OUT_BYTES } from '../src/fuse/wire/layout.ts';
import { Epoll, eventfd } from '../src/sys/wait.ts';
import { Refusing } from '../src/vfs/refusing.ts';
import { listenAt } from '../src/vhost/listener.ts';
import { pollingPays } from '../src/virtiofs/cpus.ts';
import { VirtioFsDevice } from '../src/virtiofs/device.ts';
import { DeviceIo } from '../src/virtiofs/device-io.ts';
import { runLoop } from '../src/virtiofs/loop.ts';
import { Polling } from '../src/virtiofs/polling.ts';

/** Every name is there, every file has any size, reads leave the guest's pages as they are. */
class NullFs extends Refusing {
  constructor() {
    super(0);
  }

  override lookup(request: Request): Result {
    request.reply.u32[Request.BODY_WORD] = 2;
    return ENTRY_OUT_BYTES;
  }
  override getattr(): Result {
    return ATTR_OUT_BYTES;
  }
  override create(request: Request): Result {
    request.reply.u32[Request.BODY_WORD] = 2;
    return ENTRY_OUT_BYTES + OPEN_OUT_BYTES;
  }
  override open(): Result {
    return OPEN_OUT_BYTES;
  }
  override opendir(): Result {
    return OPEN_OUT_BYTES;
  }
  override read(_request: Request, args: A.ReadArgs): Result {
    return args.size;
  }
  override write(_request: Request, args: A.WriteArgs): Result {
    return args.size;
  }
  override statfs(): Result {
    return STATFS_OUT_BYTES;
  }
}

const nothing = (): void => {};
const stats = new Stats();
const epoll = new Epoll(64);
const device = new VirtioFsDevice(
  new NullFs(),
  new DeviceIo(eventfd(), nothing, nothing, nothing),
  epoll,
  {
    kind: 'virtiofs',
    sock: null,
    fd: listenAt(process.argv[2] as string),
    fdIs: 'listening',
    tag: null,
    requestQueues: 1,
  },
  stats,
  nothing,
  nothing,
);
const refused = device.start();
if (refused !== null) throw new Error(refused);
runLoop(
  epoll,
  {
    event: (token) => device.event(token),
    serve: () => device.serve(),
    beforeSleep: () => device.beforeSleep(),
    stopped: () => false,
    failed: (error) => {
      throw error;
    },
  },
  new Polling(pollingPays()),
  stats,
);
