import {
  DeleteObjectCommand,
  GetObjectCommand,
  ListObjectsV2Command,
  NoSuchKey,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { describeError, NightlatchError } from '#core/errors.ts';
import { type BackupStore, checkObjectName } from './backup-store.ts';

export type S3Options = {
  readonly endpointUrl: string;
  readonly bucket: string;
  readonly region: string;
  readonly accessKey: string;
  readonly secretKey: string;
  /** Of one request, milliseconds. */
  readonly timeoutMs: number;
  /** How often a request is sent that gets no answer, or one that another try may change. */
  readonly attempts: number;
  /** Trusted beside those that Node trusts; null: none. PEM. */
  readonly certificates: string | null;
};

/** How many objects are removed at once. */
const REMOVED_AT_ONCE = 8;

/** Keeps each object under its name in a bucket that is there. See Amazon S3 API Reference. */
export function s3Store(options: S3Options): BackupStore & Disposable {
  const { bucket: Bucket } = options;
  const client = clientFor(options);
  const ask = <T>(doing: string, send: () => Promise<T>) => telling(doing, options, send);
  return {
    async put(name, bytes) {
      const object = { Bucket, Key: checkObjectName(name), Body: bytes, ContentLength: bytes.length };
      await ask(`Storing backup object ${name}`, () => client.send(new PutObjectCommand(object)));
    },

    get: (name) =>
      ask(`Reading backup object ${name}`, async () => {
        const { Body } = await client.send(new GetObjectCommand({ Bucket, Key: checkObjectName(name) }));
        return Buffer.from((await Body?.transformToByteArray()) ?? []);
      }),

    async deleteAll(folder) {
      const doing = `Removing backup objects of ${folder}`;
      // With the slash: another folder's name may begin like this one's.
      const all = { Bucket, Prefix: `${checkObjectName(folder)}/` };
      let after: string | undefined;
      do {
        const page = await ask(doing, () =>
          client.send(new ListObjectsV2Command({ ...all, ContinuationToken: after })),
        );
        const keys = (page.Contents ?? []).flatMap(({ Key }) => Key ?? []);
        const remove = (Key: string) => ask(doing, () => client.send(new DeleteObjectCommand({ Bucket, Key })));
        // One by one: not every store that speaks S3 takes many names in one request as AWS does.
        for (let at = 0; at < keys.length; at += REMOVED_AT_ONCE) {
          await Promise.all(keys.slice(at, at + REMOVED_AT_ONCE).map(remove));
        }
        after = page.NextContinuationToken;
      } while (after !== undefined);
    },

    [Symbol.dispose]: () => client.destroy(),
  };
}

function clientFor({ endpointUrl, region, accessKey, secretKey, ...more }: S3Options): S3Client {
  const { timeoutMs, attempts, certificates } = more;
  return new S3Client({
    endpoint: endpointUrl,
    region,
    credentials: { accessKeyId: accessKey, secretAccessKey: secretKey },
    // Stores of one's own have no host name for each bucket.
    forcePathStyle: true,
    maxAttempts: attempts,
    requestHandler: {
      connectionTimeout: timeoutMs,
      requestTimeout: timeoutMs,
      throwOnRequestTimeout: true,
      ...(certificates === null ? {} : { httpsAgent: { ca: certificates } }),
    },
    // Older stores know no other checksum than that of the signature; chunks have ours besides.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
  });
}

/** Says of any failure what was being done, and which of three it is: no such object, the store says no, no answer. */
async function telling<T>(doing: string, { endpointUrl, bucket }: S3Options, send: () => Promise<T>): Promise<T> {
  try {
    return await send();
  } catch (error) {
    if (error instanceof NoSuchKey) {
      throw new NightlatchError('backup-damaged', { reason: `${doing} failed: it is not in the backup store` });
    }
    const where = `${bucket} at ${endpointUrl}`;
    const status = error instanceof S3ServiceException ? (error.$metadata.httpStatusCode ?? 0) : 0;
    const isRefused = status >= 400 && status < 500 && status !== 408 && status !== 429;
    const reason = reasonOf(error);
    if (isRefused) throw new NightlatchError('backup-store-refused', { doing, where, reason }, { cause: error });
    throw new NightlatchError('backup-store-unavailable', { doing, where, reason }, { cause: error });
  }
}

/** Some answers have no words of their own, only a name, as one to a missing bucket. */
function reasonOf(error: unknown): string {
  const text = describeError(error);
  if (error instanceof AggregateError) return error.errors.map(describeError).join('; ');
  return error instanceof S3ServiceException && !text.includes(error.name) ? `${error.name}: ${text}` : text;
}
