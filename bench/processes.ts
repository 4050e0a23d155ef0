/** `npm run bench -- process`: start to RUNNING, resident and private memory of daemons. */
export async function measureProcesses(): Promise<void> {
  throw new Error('see below');
}
