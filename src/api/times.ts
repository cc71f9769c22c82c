/** A time as Cinder always and Nova mostly writes it: UTC with six decimals and no zone. */
export function presentTime(time: Date): string {
  return `${time.toISOString().slice(0, 23)}000`;
}

export function presentTimeOrNull(time: Date | null): string | null {
  return time === null ? null : presentTime(time);
}
