/** Where the peers' programs are, and which version they are. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, delimiter, join } from 'node:path';

/** Path of a program given by an environment variable or found on PATH; null when there is none. */
export function findProgram(name: string, variable: string): string | null {
  const given = process.env[variable];
  if (given !== undefined) return given;
  for (const dir of (process.env['PATH'] ?? '').split(delimiter)) {
    if (existsSync(join(dir, name))) return join(dir, name);
  }
  return null;
}

/** The first number in what `--version` says; a program out of a crate may not know its own, then that of the crate. */
export function versionOf(program: string): string {
  const { stdout, stderr } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  const [said = ''] = `${stdout}${stderr}`.trim().split('\n');
  return /\d+(\.\d+)+/.exec(said)?.[0] ?? crateVersion(basename(program)) ?? '(version not told)';
}

/** Version of the crate that cargo says it installed `name` from; null without cargo, or when it knows no such program. */
function crateVersion(name: string): string | null {
  const { stdout } = spawnSync('cargo', ['install', '--list'], { encoding: 'utf8' });
  let version: string | null = null;
  // `crate v1.2.3:`, and below it, indented, its programs.
  for (const line of (stdout ?? '').split('\n')) {
    if (!line.startsWith(' ')) version = /v(\S+?):?( |$)/.exec(line)?.[1] ?? null;
    else if (line.trim() === name) return version;
  }
  return null;
}
