/** What `--localfs-dir DIR` stands for (kata-contract 3.1): blobs and cache side by side in one directory. */
export function localfsConfig(directory: string): object {
  return {
    device: {
      backend: { type: 'localfs', config: { dir: directory } },
      cache: { type: 'blobcache', config: { work_dir: directory } },
    },
    mode: 'direct',
    digest_validate: false,
  };
}
