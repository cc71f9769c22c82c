/**
 * Named places where the guarantee suite kills the process, to prove that a restart finds nothing lost and nothing
 * left behind. In production a crash point is a comparison with `null`.
 */
const armed: string | null = process.env.NIGHTLATCH_CRASH_AT ?? null;

/** Ends the process by SIGKILL, as a power cut would, when the crash point of this name is armed. */
export function crashPoint(name: string): void {
  if (armed !== null && armed === name) process.kill(process.pid, 'SIGKILL');
}
