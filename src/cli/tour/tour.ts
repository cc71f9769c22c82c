export async function tour(): Promise<number> {
  return 1;
}
