/** The main thread of `nydusd`: argv → plan → device thread and API → RUNNING. */
import { readFileSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import { explain } from '../common/app-error.ts';
import { versionText } from '../daemon/build-info.ts';
import { Daemon } from '../daemon/daemon.ts';
import type { OwnConfig } from '../daemon/failover/hand-over.ts';
import { detachDead, predecessorDied } from '../daemon/failover/predecessor.ts';
import { applyFileLimit } from '../daemon/file-limit.ts';
import type { Settings } from '../daemon/image-settings.ts';
import { Life } from '../daemon/life.ts';
import { LogWriter } from '../daemon/log-writer.ts';
import { mountPath } from '../daemon/mount-path.ts';
import type { MountRequest } from '../daemon/mounts.ts';
import { dropInterpreter } from '../daemon/process-name.ts';
import { notifyManager } from '../daemon/service-manager.ts';
import { bindVmmSocket, clearSocketPath } from '../daemon/sockets.ts';
import { settleHeap, trimLater } from '../daemon/trim.ts';
import type { WritableOverlay } from '../daemon/writable-overlay.ts';
import { isListening } from '../sys/socket.ts';
import type { TransportSpec } from '../virtiofs/control.ts';
import { parseArgs, renderHelp } from './command.ts';
import { complain, complainRaw, EXIT_FAILED, EXIT_OK, EXIT_USAGE, print, report } from './fail.ts';
import { NYDUSD } from './nydusd-options.ts';
import { type Plan, planFrom } from './nydusd-plan.ts';

/** Configuration files beyond this are a mistake (kata-contract 3.3). */
const CONFIG_FILE_BYTES_MAX = 1024 * 1024;

/** Both threads are up, and whoever waited for RUNNING has gone on. */
const TRIM_AFTER_MS = 800;

/**
 * Runs the daemon. Answers when it runs or has failed: 0, or the exit code of `fail.ts`. A running daemon lives by its
 * sockets until `Life` ends it.
 */
export async function main(argv: readonly string[]): Promise<number> {
  const plan = planOrCode(argv);
  if (typeof plan === 'number') return plan;
  let log: LogWriter;
  try {
    const { logFile, logLevel, logRotationBytes } = plan;
    log = logFile === null ? LogWriter.stdout(logLevel) : LogWriter.file(logFile, logLevel, logRotationBytes);
  } catch (error) {
    return report(NYDUSD.name, error);
  }
  const life = new Life(log);
  life.guard();
  try {
    await start(plan, log, life);
  } catch (error) {
    // The log may go to a file; whoever started us by hand looks at stderr.
    complain(NYDUSD.name, explain(error));
    life.end(EXIT_FAILED, `start-up failed: ${explain(error)}`);
    return EXIT_FAILED;
  }
  return EXIT_OK;
}

function planOrCode(argv: readonly string[]): Plan | number {
  try {
    const parsed = parseArgs(NYDUSD, argv);
    if (parsed.values.version) print(versionText());
    else if (parsed.values.help) print(renderHelp(NYDUSD));
    else return planFrom(parsed);
    return EXIT_OK;
  } catch (error) {
    const code = report(NYDUSD.name, error);
    if (code === EXIT_USAGE) complainRaw(`Usage:\n${NYDUSD.usage.map((line) => `  ${line}\n`).join('')}`);
    return code;
  }
}

async function start(plan: Plan, log: LogWriter, life: Life): Promise<void> {
  const overlay = await overlayOf(plan, log);
  if (overlay !== null) life.stops(overlay);
  const transport = await transportOf(plan, life);
  if (plan.apisock !== null) await clearSocketPath(plan.apisock);
  if (transport.kind === 'fuse' && !transport.succeeds) await detachDead(transport.mountpoint, log);
  if (transport.kind === 'fuse' && overlay !== null) transport.mountpoint = overlay.lower;
  leaveGoneDirectory(plan);
  const daemon = new Daemon({
    id: plan.id,
    supervisor: plan.supervisor,
    transport,
    logLevel: plan.logLevel,
    servesOverlay: overlay !== null,
    workerEntry: __filename,
    log,
    ownConfig: (path, source) => ownConfig(plan, path, source),
    onRunning: () => {
      notifyManager(`READY=1\nSTATUS=RUNNING as ${transport.kind}`, log);
      log.info(`RUNNING as ${transport.kind} (pid ${process.pid}${plan.apisock === null ? ', no API' : ''})`);
    },
    onUnmounted: () => life.end(EXIT_OK, 'the mount point was unmounted from outside'),
    onDeviceGone: (reason) => life.end(EXIT_FAILED, `the device thread has ended (${reason}), nothing can be served`),
  });
  life.stops(daemon);
  for (const warning of plan.warnings) log.warn(warning);
  // Imported here, so that the worker boots while this thread loads Node's HTTP server.
  const { ApiServer } = plan.apisock === null ? { ApiServer: null } : await import('../api/server.ts');
  const waits = transport.kind === 'fuse' && transport.succeeds;
  // A listening socket is enough to be RUNNING: a VMM that connects at once waits in its backlog, a mount in the port.
  if (transport.kind === 'fuse' || plan.initial !== null) await daemon.ready;
  else daemon.ready.catch((error) => life.end(EXIT_FAILED, explain(error)));
  if (plan.initial !== null && !waits) await mountInitial(daemon, plan.initial);
  overlay?.cover();
  if (ApiServer !== null && plan.apisock !== null) {
    const exit = () => life.end(EXIT_OK, 'asked by the API');
    const api = new ApiServer({ daemon, exit, strictUmount: plan.strictUmount }, log);
    life.stops(api);
    // The snapshotter mounts as soon as somebody answers, and takes "not ready" for an end.
    await api.listen(plan.apisock);
    life.ownsSocket(plan.apisock);
  }
  if (waits) log.info(`INIT: waiting to take over ${transport.mountpoint} (pid ${process.pid})`);
  else daemon.run();
  await daemon.ready.catch(() => {});
  afterStart(plan, log);
}

/**
 * Makes or takes over the socket of the VMM, or finds out whether a file system is taken over. koffi is loaded for it,
 * and stays for the process's `_exit`.
 */
async function transportOf({ mode, upgrade, supervisor, apisock }: Plan, life: Life): Promise<TransportSpec> {
  if (mode.kind === 'fuse') {
    const isSupervised = supervisor !== null && apisock !== null;
    const succeeds = upgrade || (isSupervised && (await predecessorDied(mode.mountpoint, apisock)));
    return { ...mode, succeeds, failover: supervisor === null ? null : mode.failover };
  }
  const { sock, tag, requestQueues } = mode;
  if (mode.fd !== null) {
    const listening = isListening(mode.fd);
    if (listening < 0) throw new Error(`--fd ${mode.fd} is no socket`);
    return {
      kind: 'virtiofs',
      sock: null,
      fd: mode.fd,
      fdIs: listening === 1 ? 'listening' : 'connected',
      tag,
      requestQueues,
    };
  }
  await clearSocketPath(sock!);
  const fd = bindVmmSocket(sock!);
  life.ownsSocket(sock!);
  return { kind: 'virtiofs', sock, fd, fdIs: 'listening', tag, requestQueues };
}

/** Node starts no thread in a directory that was removed. A relative socket is not made elsewhere: that is an error. */
function leaveGoneDirectory({ apisock }: Plan): void {
  try {
    process.cwd();
  } catch {
    if (apisock === null || isAbsolute(apisock)) process.chdir('/');
  }
}

/** The writable overlay that the configuration of a FUSE mount asks for; mostly null, and then it costs one read. */
async function overlayOf(
  { mode, initial, supervisor, upgrade }: Plan,
  log: LogWriter,
): Promise<WritableOverlay | null> {
  const isCovered = mode.kind === 'fuse' && initial?.kind === 'rafs' && mountPath(initial.at) === '/';
  const text = isCovered && initial.configFile !== null ? readConfigFile(initial.configFile) : '';
  if (!isCovered || !text.includes('overlay')) return null;
  const { parseConfig } = await import('../storage/config/config.ts');
  const directories = parseConfig(text).overlay;
  if (directories === null) return null;
  if (supervisor !== null || upgrade) throw new Error('a writable overlay cannot be handed over: no --supervisor then');
  const { WritableOverlay } = await import('../daemon/writable-overlay.ts');
  return new WritableOverlay(mode.mountpoint, mode.readOnly, directories, log);
}

type InitialImage = Extract<Plan['initial'], { kind: 'rafs' }>;

const NO_LISTS = { prefetchFiles: null, prefetchTrace: null };

/** What `--prefetch-files` names; hints, without which the daemon starts all the same. */
async function prefetchLists(file: string, log: LogWriter): Promise<Pick<MountRequest, keyof typeof NO_LISTS>> {
  const { readPrefetchLists } = await import('./prefetch-files.ts');
  try {
    return readPrefetchLists(file, log);
  } catch (error) {
    log.warn(`--prefetch-files ${file}: ${explain(error)}; it is left out`);
    return NO_LISTS;
  }
}

async function mountInitial(daemon: Daemon, initial: NonNullable<Plan['initial']>): Promise<void> {
  if (initial.kind === 'passthrough') {
    const request = { source: initial.source, fsType: 'passthrough_fs', config: '', ...NO_LISTS };
    return daemon.mounts.mount(initial.at, request);
  }
  const config = initial.configText ?? readConfigFile(initial.configFile!);
  const lists = initial.prefetchFiles === null ? NO_LISTS : await prefetchLists(initial.prefetchFiles, daemon.log);
  await daemon.mounts.mount(initial.at, { source: initial.source, fsType: 'rafs', config, ...lists });
  const settings = settingsFor(initial);
  if (Object.keys(settings).length > 0) await daemon.images.change(mountPath(initial.at), settings);
}

/** Credentials that shall not lie in a file (kata-contract 3.1). */
function settingsFor({ configFile }: InitialImage): Settings {
  const auth = process.env['IMAGE_PULL_AUTH'] ?? '';
  return auth === '' || configFile === null ? {} : { registry_auth: auth };
}

/** The configuration file may have been renewed since the predecessor read it. */
function ownConfig({ initial }: Plan, path: string, source: string): OwnConfig | null {
  if (initial?.kind !== 'rafs' || initial.source !== source || mountPath(initial.at) !== path) return null;
  try {
    const text = initial.configText ?? readConfigFile(initial.configFile!);
    return { text, settings: settingsFor(initial) };
  } catch {
    return null; // the saved one is as good as it was
  }
}

function readConfigFile(path: string): string {
  const bytes = readFileSync(path);
  if (bytes.length > CONFIG_FILE_BYTES_MAX) throw new Error(`${path}: larger than ${CONFIG_FILE_BYTES_MAX} bytes`);
  return bytes.toString('utf8');
}

/** What may wait until RUNNING was answered. */
function afterStart(plan: Plan, log: LogWriter): void {
  if (plan.nofile.limit > 0) applyFileLimit(plan.nofile.limit, plan.nofile.asked, log);
  dropInterpreter();
  settleHeap();
  trimLater(TRIM_AFTER_MS);
}
