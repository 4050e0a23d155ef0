/** The JSON that `-J` asks for (rafs-format 7.6). Tools read `blobs`; the rest is for people. */
import { writeFileSync } from 'node:fs';
import { codeOf } from '../common/app-error.ts';
import { imageError } from './errors.ts';

export interface Report {
  /** `<package version>-<commit>` */
  version: string;
  bootstrap: string;
  /** Ids in table order; for a build only those of blobs that were made. */
  blobs: readonly string[];
  compressor: string;
  fsVersion: 5 | 6;
  /** Counters and seconds. */
  trace: Record<string, Record<string, number>>;
}

/** Text of a report; members this program has no use for are there and empty. */
export function reportText(report: Report, pretty: boolean): string {
  const all = {
    version: report.version,
    bootstrap: report.bootstrap,
    blobs: report.blobs,
    external_bootstrap: '',
    external_blobs: [],
    trace: report.trace,
    fs_version: String(report.fsVersion),
    compressor: report.compressor,
  };
  return JSON.stringify(all, null, pretty ? 2 : undefined);
}

/** @throws AppError OUTPUT */
export function saveReport(path: string, report: Report, pretty: boolean): void {
  try {
    writeFileSync(path, reportText(report, pretty));
  } catch (error) {
    throw imageError('OUTPUT', { path, why: codeOf(error) }, error);
  }
}
