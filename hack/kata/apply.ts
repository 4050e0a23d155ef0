/**
 * Carries out a plan, and takes it back.
 *
 * A whole file or link that is there and not ours is never overwritten; one of ours that somebody has changed since is
 * never removed. What we made is recorded in a state file with its digest. Run twice, `install` changes nothing.
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { Conflict, type Host, STATE } from './paths.ts';
import type { Plan, Step } from './plan.ts';
import { CREATED, merge, unmerge } from './toml-edit.ts';

interface State {
  /** Path → digest of its text as we wrote it. */
  files: Record<string, string>;
  /** Path → target. */
  links: Record<string, string>;
  merged: string[];
  /** Directories we made, in the order they were made. */
  directories: string[];
}

export interface Outcome {
  /** What was done, or would be. */
  changes: string[];
  notes: string[];
}

/** @throws Conflict, before anything is changed */
export function install(host: Host, plan: Plan, dryRun: boolean): Outcome {
  const state = readState(host);
  const outcome: Outcome = { changes: [], notes: [...plan.notes] };
  const todo = plan.steps.filter((step) => isWanted(host, state, step, outcome));
  if (dryRun || todo.length === 0) return outcome;
  for (const step of todo) {
    makeDirectories(host, state, dirname(step.path));
    if (step.kind === 'link') {
      rmSync(host.at(step.path), { force: true });
      symlinkSync(step.target, host.real(step.path));
      state.links[step.path] = step.target;
    } else if (step.kind === 'file') {
      write(host, step.path, step.text);
      state.files[step.path] = digest(step.text);
    } else {
      write(host, step.path, merged(host, step));
      if (!state.merged.includes(step.path)) state.merged.push(step.path);
    }
  }
  makeDirectories(host, state, dirname(STATE));
  write(host, STATE, `${JSON.stringify(state, null, 2)}\n`);
  return outcome;
}

/** Removes what `install` made. What others have changed since stays, and is named. */
export function uninstall(host: Host, dryRun: boolean): Outcome {
  const state = readState(host);
  const outcome: Outcome = { changes: [], notes: [] };
  const { changes, notes } = outcome;
  const remove = (path: string): void => {
    changes.push(`remove ${path}`);
    if (!dryRun) rmSync(host.real(path));
  };
  for (const path of state.merged) {
    const before = host.text(path);
    if (before === null) continue;
    const { text, wasCreated } = unmerge(before);
    if (wasCreated && text === '') remove(path);
    else if (text !== before) {
      changes.push(`restore ${path}`);
      if (!dryRun) write(host, path, text);
    }
  }
  for (const [path, sha256] of Object.entries(state.files)) {
    const text = host.text(path);
    if (text === null) continue;
    if (digest(text) === sha256) remove(path);
    else notes.push(`${path} was changed since it was installed: kept`);
  }
  for (const [path, target] of Object.entries(state.links)) {
    const now = linkTarget(host, path);
    if (now === target) {
      changes.push(`remove ${path}`);
      if (!dryRun) rmSync(host.at(path));
    } else if (now !== null) notes.push(`${path} is not the link that was installed: kept`);
  }
  if (!host.hasName(STATE)) return outcome;
  remove(STATE);
  if (dryRun) return outcome;
  for (const path of state.directories.toReversed()) {
    if (host.hasName(path) && readdirSync(host.at(path)).length === 0) rmdirSync(host.at(path));
  }
  return outcome;
}

/** The lines a person reads. */
export function describe({ changes, notes }: Outcome, dryRun: boolean): string {
  const done = changes.map((change) => `${dryRun ? 'would ' : ''}${change}\n`);
  const said = notes.map((note) => `note: ${note}\n`);
  return [...done, ...said, ...(changes.length === 0 ? ['nothing to change\n'] : [])].join('');
}

/** True when the step would change something; says what. */
function isWanted(host: Host, state: State, step: Step, { changes, notes }: Outcome): boolean {
  const { path } = step;
  // Throws before anything is changed.
  host.real(step.kind === 'link' ? dirname(path) : path);
  const there = host.hasName(path);
  if (step.kind === 'merge') {
    const before = host.text(path);
    if (before === merged(host, step)) return false;
    changes.push(`${there ? 'change' : 'create'} ${path} (${step.entries.length} keys)`);
    return true;
  }
  const now = step.kind === 'link' ? linkTarget(host, path) : host.text(path);
  const wanted = step.kind === 'link' ? step.target : step.text;
  if (there && now === wanted) return false;
  const isOurs =
    step.kind === 'link'
      ? now !== null && state.links[path] === now
      : now !== null && state.files[path] === digest(now);
  if (there && !isOurs) {
    if (step.optional === undefined) throw new Conflict(`${path} exists and is not ours; move it away and run again`);
    notes.push(`${path} exists and is not ours: kept; ${step.optional}`);
    return false;
  }
  changes.push(`${there ? 'change' : 'create'} ${path}${step.kind === 'link' ? ` -> ${step.target}` : ''}`);
  return true;
}

/** @throws Conflict */
function merged(host: Host, { path, entries }: Extract<Step, { kind: 'merge' }>): string {
  try {
    return merge(host.text(path) ?? `${CREATED}\n`, entries, true);
  } catch (error) {
    throw error instanceof Conflict ? new Conflict(`${path}: ${error.message}`) : error;
  }
}

function makeDirectories(host: Host, state: State, path: string): void {
  if (host.hasName(path)) return;
  makeDirectories(host, state, dirname(path));
  mkdirSync(host.real(path), { mode: 0o755 });
  state.directories.push(path);
}

/** Replaces a file in one step; mode and owner stay. */
function write(host: Host, path: string, text: string): void {
  const real = host.real(path);
  const scratch = `${real}.nydusd-ts`;
  writeFileSync(scratch, text, { mode: 0o644 });
  if (host.has(path)) {
    const { mode, uid, gid } = statSync(real);
    chownSync(scratch, uid, gid);
    chmodSync(scratch, mode & 0o7777);
  }
  renameSync(scratch, real);
}

function linkTarget(host: Host, path: string): string | null {
  if (!host.hasName(path)) return null;
  return lstatSync(host.at(path)).isSymbolicLink() ? readlinkSync(host.at(path)) : '';
}

function readState(host: Host): State {
  if (!host.has(STATE)) return { files: {}, links: {}, merged: [], directories: [] };
  return JSON.parse(readFileSync(host.at(STATE), 'utf8')) as State;
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
