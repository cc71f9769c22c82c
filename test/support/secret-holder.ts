/** A process that uses a secret as the service does, zeroes it, tells what it was (inverted), and stays. */
import { Secret } from '#core/secret.ts';

const inverted: number[] = [];
{
  using secret = Secret.generate();
  using copy = secret.copy();
  copy.use((bytes) => void bytes.buffer);
  secret.use((bytes) => {
    // What giving the buffer to native code does.
    void bytes.buffer;
    for (const byte of bytes) inverted.push(byte ^ 0xff);
  });
}
process.send?.(inverted);
// Keeps the process until its parent ends it.
process.on('message', () => {});
