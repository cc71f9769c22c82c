import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { CreateBucketCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3';

/** Debian's, where its packages are; another may come first in the caller's path. */
const PYTHON = '/usr/bin/python3';
const SERVER = 'test/support/swift-server.py';

/** OpenStack's own object store with its S3 API, as a process of this machine; its bytes outlive a stop. */
export class ObjectStore implements AsyncDisposable {
  readonly bucket = 'volumebackups';
  readonly accessKey = 'test:tester';
  readonly secretKey = 'secret-key-of-the-tests';
  readonly folder: string;
  url = '';
  #child: ChildProcess | null = null;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** One with a bucket. */
  static async start(): Promise<ObjectStore> {
    const store = new ObjectStore(await mkdtemp('/var/tmp/nl-swift-'));
    await store.launch();
    await store.addBucket(store.bucket);
    return store;
  }

  /** At the address it had, if it had one. */
  async launch(): Promise<void> {
    const port = this.url === '' ? [] : [new URL(this.url).port];
    const args = [SERVER, join(this.folder, 'store'), this.accessKey, this.secretKey, ...port];
    const child = spawn(PYTHON, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const said: string[] = [];
    child.stderr.on('data', (text) => void said.push(String(text)));
    this.#child = child;
    const address = new Promise<string>((resolve) => createInterface(child.stdout).once('line', resolve));
    const ended = once(child, 'exit').then(() => '');
    this.url = await Promise.race([address, ended]);
    if (this.url === '') throw new Error(`the object store did not start: ${said.join('').slice(-3000)}`);
  }

  async stop(): Promise<void> {
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }

  async addBucket(name: string): Promise<void> {
    await this.#ask((client) => client.send(new CreateBucketCommand({ Bucket: name })));
  }

  /** The first parts of the names of all objects there are. */
  async folders(): Promise<string[]> {
    const found = new Set<string>();
    let after: string | undefined;
    do {
      const where = { Bucket: this.bucket, ContinuationToken: after };
      const page = await this.#ask((client) => client.send(new ListObjectsV2Command(where)));
      for (const { Key } of page.Contents ?? []) found.add(Key?.split('/')[0] ?? '');
      after = page.NextContinuationToken;
    } while (after !== undefined);
    return [...found];
  }

  async #ask<T>(send: (client: S3Client) => Promise<T>): Promise<T> {
    const credentials = { accessKeyId: this.accessKey, secretAccessKey: this.secretKey };
    const client = new S3Client({ endpoint: this.url, region: 'us-east-1', forcePathStyle: true, credentials });
    try {
      return await send(client);
    } finally {
      client.destroy();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}
