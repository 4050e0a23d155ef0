/**
 * What an installation consists of on this host, as a list of steps; nothing is changed here.
 *
 *   links to our commands · a configuration for each Kata runtime found · keys in containerd's and the snapshotter's
 *   configuration · the template of daemon configurations · the systemd unit
 */
import { join } from 'node:path';
import {
  BIN,
  COMMANDS,
  CONTAINERD_CONFIG,
  HELPER_ON_PATH,
  type Host,
  KATA_RUNTIMES,
  NYDUSD_CONFIG,
  REPOSITORY,
  SNAPSHOTTER_CONFIG,
  template,
  UNIT,
} from './paths.ts';
import { type Entry, entriesOf, merge, tablesOf, valueAt } from './toml-edit.ts';

export type Step =
  /** A symbolic link of ours. */
  | { kind: 'link'; path: string; target: string; optional?: string }
  /** A file that is ours as a whole. */
  | { kind: 'file'; path: string; text: string; optional?: string }
  /** Keys in a file of others, made when it is missing. */
  | { kind: 'merge'; path: string; entries: Entry[] };

export interface Plan {
  steps: Step[];
  /** What was left out, and why. */
  notes: string[];
}

const HYPERVISORS = ['qemu', 'clh', 'cloud-hypervisor'];

export function planFor(host: Host): Plan {
  const notes: string[] = [];
  const steps: Step[] = COMMANDS.map((name) => ({
    kind: 'link',
    path: join(BIN, name),
    target: join(REPOSITORY, 'bin', name),
  }));
  steps.push({
    kind: 'link',
    path: HELPER_ON_PATH,
    target: join(BIN, 'nydus-overlayfs'),
    optional: 'the helper that is there stays in use; ours is the one that keeps setuid and device bits',
  });

  const present = host.text(CONTAINERD_CONFIG) ?? '';
  const version = containerdVersion(present);
  if (isOfVersion1(present))
    notes.push(`${CONTAINERD_CONFIG} is of version 1, in which our keys mean nothing: containerd config migrate`);
  const containerd = [
    ...(valueAt(present, '', 'version') === null && !isOfVersion1(present)
      ? [{ table: '', key: 'version', value: version }]
      : []),
    ...entriesOf(template(`containerd-${version}.toml`)),
  ];
  for (const runtime of KATA_RUNTIMES) {
    const base = runtime.bases.find((path) => host.has(path));
    if (base === undefined) {
      notes.push(`Kata's ${runtime.name} is not configured on this host (no ${runtime.bases[0]}): left out`);
      continue;
    }
    const text = host.text(base)!;
    const hypervisor = HYPERVISORS.find((name) => tablesOf(text).includes(`hypervisor.${name}`));
    if (hypervisor === undefined) {
      notes.push(`${base} configures none of ${HYPERVISORS.join(', ')}: Kata's ${runtime.name} is left out`);
      continue;
    }
    const entries = entriesOf(template('kata-configuration.toml', { HYPERVISOR: hypervisor }));
    steps.push({ kind: 'file', path: runtime.config, text: merge(text, entries, false) });
    const values = { HANDLER: runtime.handler, RUNTIME: runtime.type, CONFIG: runtime.config };
    containerd.push(...entriesOf(template(`containerd-runtime-${version}.toml`, values)));
  }
  steps.push({ kind: 'merge', path: CONTAINERD_CONFIG, entries: containerd });
  steps.push({ kind: 'merge', path: SNAPSHOTTER_CONFIG, entries: entriesOf(template('snapshotter.toml')) });
  steps.push({
    kind: 'file',
    path: NYDUSD_CONFIG,
    text: template('nydusd-config.json'),
    optional: 'the snapshotter goes on using it',
  });
  steps.push({ kind: 'file', path: UNIT, text: template('nydusd@.service') });
  return { steps, notes };
}

/** Without a version containerd 1.x takes a configuration for one of version 1; here what only such a one says counts. */
export function isOfVersion1(text: string): boolean {
  const version = valueAt(text, '', 'version');
  const lists = ['disabled_plugins', 'required_plugins'].map((key) => valueAt(text, '', key) ?? '');
  const isShort =
    lists.some((list) => /["'][^"'.]+["']/.test(list)) || tablesOf(text).some((t) => /^plugins\.\w/.test(t));
  return version === '1' || (version === null && isShort);
}

/** Version of containerd's configuration: 2 for containerd 1.x, 3 for 2.x. */
export function containerdVersion(text: string | null): '2' | '3' {
  return text !== null && valueAt(text, '', 'version') === '3' ? '3' : '2';
}
