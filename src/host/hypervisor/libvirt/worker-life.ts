/**
 * Ties the life of a worker process to its parent's. Ctrl-C in the terminal is for the parent, which still needs its
 * workers to end in order; when the parent is gone the worker ends by SIGKILL, because a plain exit would wait for
 * libvirt's threads, and nothing is left to flush.
 */
export function stayUntilDisconnected(): void {
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'));
}
