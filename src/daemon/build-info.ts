/** Who we are: the five strings of the API's `version` object and of `--version` (kata-contract 3.2, 4.4). */

export interface BuildInfo {
  package_ver: string;
  git_commit: string;
  build_time: string;
  profile: string;
  rustc: string;
}

/** Written into the bundle by scripts/build.mjs; absent when the sources run directly. */
declare const NYDUSD_BUILD: { version: string; commit: string; time: string } | undefined;

const build =
  typeof NYDUSD_BUILD === 'undefined' ? { version: '0.0.0', commit: 'unbuilt', time: 'unbuilt' } : NYDUSD_BUILD;

export const BUILD_INFO: BuildInfo = {
  package_ver: `v${build.version}`,
  git_commit: build.commit,
  build_time: build.time,
  profile: 'release',
  // Clients demand the member; what it tells is the thing that runs us.
  rustc: `node ${process.version}`,
};

/** Text of `--version`; nydus-snapshotter reads the `Git Commit:` line. */
export function versionText(): string {
  return [
    `Version: \t${BUILD_INFO.package_ver}`,
    `Git Commit: \t${BUILD_INFO.git_commit}`,
    `Build Time: \t${BUILD_INFO.build_time}`,
    `Profile: \t${BUILD_INFO.profile}`,
    `Rustc: \t\t${BUILD_INFO.rustc}`,
    '',
  ].join('\n');
}
