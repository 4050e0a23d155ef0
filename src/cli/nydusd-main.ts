/** The main thread of `nydusd`: argv → plan → device thread and API → RUNNING. */
import { readFileSync } from 'node:fs';
import { ApiServer } from '../api/server.ts';
import { explain } from '../common/app-error.ts';
import { versionText } from '../daemon/build-info.ts';
import { Daemon } from '../daemon/daemon.ts';
import { Life } from '../daemon/life.ts';
import { LogWriter } from '../daemon/log-writer.ts';
import { clearSocketPath } from '../daemon/sockets.ts';
import type { TransportSpec } from '../virtiofs/control.ts';
import { parseArgs, renderHelp } from './command.ts';
import { complain, complainRaw, EXIT_FAILED, EXIT_OK, EXIT_USAGE, print, report } from './fail.ts';
import { NYDUSD } from './nydusd-options.ts';
import { type Plan, planFrom } from './nydusd-plan.ts';

/** Configuration files beyond this are a mistake (kata-contract 3.3). */
const CONFIG_FILE_BYTES_MAX = 1024 * 1024;

/** Runs the daemon. Returns once it runs or has failed; the process goes on living by its sockets. */
export async function main(argv: readonly string[]): Promise<void> {
  const plan = planOrExit(argv);
  if (plan === null) return;
  let log: LogWriter;
  try {
    log = plan.logFile === null ? LogWriter.stdout(plan.logLevel) : LogWriter.file(plan.logFile, plan.logLevel);
  } catch (error) {
    process.exitCode = report(NYDUSD.name, error);
    return;
  }
  const life = new Life(log);
  life.guard();
  try {
    await start(plan, log, life);
  } catch (error) {
    // The log may go to a file; whoever started us by hand looks at stderr.
    complain(NYDUSD.name, explain(error));
    life.end(EXIT_FAILED, `start-up failed: ${explain(error)}`);
  }
}

function planOrExit(argv: readonly string[]): Plan | null {
  try {
    const parsed = parseArgs(NYDUSD, argv);
    if (parsed.values.version) print(versionText());
    else if (parsed.values.help) print(renderHelp(NYDUSD));
    else return planFrom(parsed);
    process.exitCode = EXIT_OK;
  } catch (error) {
    process.exitCode = report(NYDUSD.name, error);
    if (process.exitCode === EXIT_USAGE) complainRaw(`Usage:\n${NYDUSD.usage.map((line) => `  ${line}\n`).join('')}`);
  }
  return null;
}

async function start(plan: Plan, log: LogWriter, life: Life): Promise<void> {
  const transport = await transportOf(plan);
  if (plan.apisock !== null) await clearSocketPath(plan.apisock);
  const daemon = new Daemon({
    id: plan.id,
    supervisor: plan.supervisor,
    transport,
    logLevel: plan.logLevel,
    workerEntry: __filename,
    log,
    onDeviceGone: (reason) => life.end(EXIT_FAILED, `the device thread has ended (${reason}), nothing can be served`),
  });
  life.stops(daemon);
  for (const warning of plan.warnings) log.warn(warning);
  const api =
    plan.apisock === null ? null : new ApiServer({ daemon, exit: () => life.end(EXIT_OK, 'asked by the API') }, log);
  if (api !== null) {
    life.stops(api);
    await api.listen(plan.apisock!);
    life.ownsSocket(plan.apisock!);
  }
  await daemon.ready;
  if (transport.kind === 'virtiofs' && transport.sock !== null) life.ownsSocket(transport.sock);
  if (plan.initial !== null) await mountInitial(daemon, plan.initial);
  daemon.run();
  log.info(`RUNNING as ${transport.kind} (pid ${process.pid}${plan.apisock === null ? ', no API' : ''})`);
  setImmediate(() => void afterStart(plan, log, life));
}

async function transportOf({ mode }: Plan): Promise<TransportSpec> {
  if (mode.kind === 'fuse') return mode;
  const { sock, tag, requestQueues } = mode;
  if (mode.fd !== null) {
    const { isListening } = await import('../sys/socket.ts');
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
  // Where nothing is in the way (the normal case) no turn of the event loop is spent here.
  const cleared = clearSocketPath(sock!);
  if (cleared !== null) await cleared;
  return { kind: 'virtiofs', sock, fd: -1, fdIs: 'listening', tag, requestQueues };
}

async function mountInitial(daemon: Daemon, initial: NonNullable<Plan['initial']>): Promise<void> {
  if (initial.kind === 'passthrough') {
    const request = { source: initial.source, fsType: 'passthrough_fs', config: '', prefetchFiles: null };
    return daemon.mounts.mount(initial.at, request);
  }
  const config = initial.configText ?? readConfigFile(initial.configFile!);
  return daemon.mounts.mount(initial.at, { source: initial.source, fsType: 'rafs', config, prefetchFiles: null });
}

function readConfigFile(path: string): string {
  const bytes = readFileSync(path);
  if (bytes.length > CONFIG_FILE_BYTES_MAX) throw new Error(`${path}: larger than ${CONFIG_FILE_BYTES_MAX} bytes`);
  return bytes.toString('utf8');
}

/** What may wait until RUNNING was answered. */
async function afterStart(plan: Plan, log: LogWriter, life: Life): Promise<void> {
  await life.prepare();
  if (plan.nofile.limit > 0) {
    const { applyFileLimit } = await import('../daemon/file-limit.ts');
    applyFileLimit(plan.nofile.limit, plan.nofile.asked, log);
  }
}
