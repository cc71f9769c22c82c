import type { Readable } from 'node:stream';
import { Secret } from '#core/secret.ts';
import { encodeFrame, type FrameReader } from '#host/remote/frames.ts';
import type { KeySeal } from '#host/remote/key-seal.ts';

/**
 * A call of a verb on its way: one frame of JSON that says what each argument is, then one frame for each key, sealed,
 * in the order in which the arguments name them. What follows belongs to the argument that is a source of bytes.
 */
type Argument =
  | { readonly value: unknown }
  | { readonly none: true }
  | { readonly key: true }
  | { readonly keys: readonly string[] }
  /** An object of keys alone, by the names of its properties. */
  | { readonly named: readonly string[] }
  | { readonly set: readonly string[] }
  /** Plain data, but for the property of this name, which is a source of bytes. */
  | { readonly value: object; readonly source: string };

/** More disks than any server has. */
const MOST_KEYS = 256;

export type Source = () => Promise<Readable>;
export type DecodedCall = Disposable & { readonly args: readonly unknown[] };

/** @throws when an argument is of a kind that does not travel, which is a bug. */
export function encodeCall(args: readonly unknown[], seal: KeySeal): { frames: Buffer[]; source: Source | null } {
  const keys: Secret[] = [];
  let source: Source | null = null;
  const described = args.map((arg): Argument => {
    if (arg instanceof Secret) {
      keys.push(arg);
      return { key: true };
    }
    if (arg instanceof Map) {
      keys.push(...secretsOf(arg));
      return { keys: [...arg.keys()] };
    }
    if (isOfSecrets(arg)) {
      keys.push(...Object.values(arg));
      return { named: Object.keys(arg) };
    }
    if (arg instanceof Set) return { set: [...arg] };
    const name = sourceIn(arg);
    if (name === null) return arg === undefined ? { none: true } : { value: arg };
    if (source !== null) throw new Error('a verb can have one source of bytes');
    const whole = arg as Readonly<Record<string, Source>>;
    source = () => whole[name]?.() ?? Promise.reject(new Error(`${name} is no source`));
    return { value: { ...whole, [name]: undefined }, source: name };
  });
  const call = Buffer.from(JSON.stringify(described, refuseSecrets));
  const sealed = keys.map((key, i) => encodeFrame('key', seal.seal(key, boundTo(call, i))));
  return { frames: [encodeFrame('call', call), ...sealed], source };
}

/** Reads a call. Its keys are zeroed when its scope ends. *Throws* what reading throws; when a key was tampered with. */
export async function decodeCall(reader: FrameReader, seal: KeySeal, openSource: Source): Promise<DecodedCall> {
  const { content: call } = await reader.next('call');
  const described: unknown = JSON.parse(call.toString('utf8'));
  if (!Array.isArray(described)) throw new Error('a call is not a list of arguments');
  using undo = new DisposableStack();
  let keysRead = 0;
  const readKey = async () => {
    if (keysRead === MOST_KEYS) throw new Error('a call has too many keys');
    const { content } = await reader.next('key');
    return undo.use(seal.open(content, boundTo(call, keysRead++)));
  };
  const args: unknown[] = [];
  for (const argument of described as Argument[]) args.push(await decodeArgument(argument, readKey, openSource));
  const held = undo.move();
  return { args, [Symbol.dispose]: () => held.dispose() };
}

async function decodeArgument(argument: Argument, readKey: () => Promise<Secret>, openSource: Source) {
  if ('key' in argument) return await readKey();
  if ('set' in argument) return new Set(argument.set);
  if ('source' in argument) return { ...argument.value, [argument.source]: openSource };
  if ('value' in argument) return argument.value;
  if ('none' in argument) return undefined;
  const names = 'keys' in argument ? argument.keys : argument.named;
  if (!Array.isArray(names)) throw new Error('a call has an argument of no known kind');
  const keys = new Map<string, Secret>();
  for (const name of names) keys.set(name, await readKey());
  return 'keys' in argument ? keys : Object.fromEntries(keys);
}

function isOfSecrets(arg: unknown): arg is Readonly<Record<string, Secret>> {
  if (typeof arg !== 'object' || arg === null) return false;
  const values: unknown[] = Object.values(arg);
  return values.length > 0 && values.every((value) => value instanceof Secret);
}

/** Which property of an argument is a source of bytes; null: none. */
function sourceIn(arg: unknown): string | null {
  if (typeof arg !== 'object' || arg === null) return null;
  return Object.entries(arg).find(([, value]) => typeof value === 'function')?.[0] ?? null;
}

/** A sealed key opens only within the call it was sealed for, in its place. */
function boundTo(call: Buffer, index: number): Buffer {
  return Buffer.concat([call, Buffer.from(` key ${index}`)]);
}

function secretsOf(map: ReadonlyMap<unknown, unknown>): Secret[] {
  return [...map.values()].map((value) => {
    if (value instanceof Secret) return value;
    throw new Error('a map among the arguments of a verb has values that are not keys');
  });
}

/** A key inside of other data would arrive as `[secret]`. */
function refuseSecrets(this: Record<string, unknown>, name: string, value: unknown): unknown {
  if (this[name] instanceof Secret) throw new Error(`${name}: a key inside of an argument does not travel`);
  return value;
}
