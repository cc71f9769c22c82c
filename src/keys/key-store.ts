import type { ProjectId, SecretId } from '#core/ids.ts';
import type { Secret } from '#core/secret.ts';

/** Where a secret belongs and what it is for. `label` is unique for ever: the id of the disk it opens. */
export type KeyLabel = { readonly projectId: ProjectId; readonly label: string; readonly name: string };

/** Keeps passphrases durably. What it returns from `get` is byte for byte what `store` was given. */
export interface KeyStore {
  /**
   * On return the secret is durable.
   * *Repeat* with a label that is already stored: returns that secret's id and keeps its bytes, so that a repeat after
   * a crash neither leaves an orphan nor changes a key something may depend on.
   */
  store(label: KeyLabel, secret: Secret): Promise<SecretId>;

  /** *Throws* key-unavailable when there is no such secret in the project; key-corrupt when it cannot be unwrapped. */
  get(projectId: ProjectId, id: SecretId): Promise<Secret>;

  /** Whether the project has such a secret; its bytes are not read. */
  has(projectId: ProjectId, id: SecretId): Promise<boolean>;

  /** The secret stored under a label, or null. */
  find(label: string): Promise<SecretId | null>;

  /** Destroys a secret. *Repeat*: a secret that is already gone is fine. */
  delete(id: SecretId): Promise<void>;
}
