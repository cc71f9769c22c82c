import { Type } from '@fastify/type-provider-typebox';

/** JSON Schemas of the identity API's requests. See Identity API v3. Fields that would have no effect are not known. */
const strict = { additionalProperties: false };

const name = Type.String({ minLength: 1, maxLength: 255, pattern: '\\S' });
const description = Type.Union([Type.String({ maxLength: 65_535 }), Type.Null()]);
const id = Type.String({ minLength: 1, maxLength: 64 });
const password = Type.String({ minLength: 1, maxLength: 4096 });
/** Sent by clients on every create; only the empty form has a meaning here. */
const noOptions = Type.Optional(Type.Object({}, strict));
const noTags = Type.Optional(Type.Array(Type.Never(), { maxItems: 0 }));

const domainReference = Type.Object({ id: Type.Optional(id), name: Type.Optional(name) }, strict);
const projectReference = Type.Object(
  { id: Type.Optional(id), name: Type.Optional(name), domain: Type.Optional(domainReference) },
  strict,
);

/** `POST /v3/auth/tokens`. Method and scope names that we do not offer pass here and are refused by name later. */
export const authRequest = Type.Object({
  auth: Type.Object({
    identity: Type.Object({
      methods: Type.Array(Type.String({ maxLength: 64 }), { minItems: 1, maxItems: 8 }),
      password: Type.Optional(
        Type.Object({
          user: Type.Object({
            id: Type.Optional(id),
            name: Type.Optional(name),
            domain: Type.Optional(domainReference),
            password: Type.String({ maxLength: 4096 }),
          }),
        }),
      ),
      token: Type.Optional(Type.Object({ id: Type.String({ minLength: 1, maxLength: 1024 }) })),
    }),
    scope: Type.Optional(
      Type.Union([
        Type.Literal('unscoped'),
        Type.Object({
          project: Type.Optional(projectReference),
          unscoped: Type.Optional(Type.Object({})),
          domain: Type.Optional(Type.Unknown()),
          system: Type.Optional(Type.Unknown()),
        }),
      ]),
    ),
  }),
});

export const createProjectRequest = Type.Object(
  {
    project: Type.Object(
      {
        name,
        description: Type.Optional(description),
        enabled: Type.Optional(Type.Boolean()),
        domain_id: Type.Optional(Type.Union([id, Type.Null()])),
        parent_id: Type.Optional(Type.Union([id, Type.Null()])),
        is_domain: Type.Optional(Type.Literal(false)),
        options: noOptions,
        tags: noTags,
      },
      strict,
    ),
  },
  strict,
);

export const updateProjectRequest = Type.Object(
  {
    project: Type.Object(
      {
        name: Type.Optional(name),
        description: Type.Optional(description),
        enabled: Type.Optional(Type.Boolean()),
        domain_id: Type.Optional(Type.Literal('default')),
        options: noOptions,
        tags: noTags,
      },
      strict,
    ),
  },
  strict,
);

const userFields = {
  description: Type.Optional(description),
  email: Type.Optional(Type.Union([Type.String({ maxLength: 255 }), Type.Null()])),
  enabled: Type.Optional(Type.Boolean()),
  default_project_id: Type.Optional(Type.Union([id, Type.Null()])),
  options: noOptions,
};

export const createUserRequest = Type.Object(
  {
    user: Type.Object(
      {
        name,
        password: Type.Optional(Type.Union([password, Type.Null()])),
        domain_id: Type.Optional(Type.Union([id, Type.Null()])),
        ...userFields,
      },
      strict,
    ),
  },
  strict,
);

export const updateUserRequest = Type.Object(
  {
    user: Type.Object(
      {
        name: Type.Optional(name),
        password: Type.Optional(password),
        domain_id: Type.Optional(Type.Literal('default')),
        ...userFields,
      },
      strict,
    ),
  },
  strict,
);

export const changePasswordRequest = Type.Object(
  { user: Type.Object({ original_password: Type.String({ maxLength: 4096 }), password }, strict) },
  strict,
);

export const createRoleRequest = Type.Object(
  {
    role: Type.Object(
      {
        name,
        domain_id: Type.Optional(Type.Null()),
        options: noOptions,
      },
      strict,
    ),
  },
  strict,
);

/** Filters of lists; others are ignored, as Keystone does. */
export const listQuery = Type.Object({
  name: Type.Optional(Type.String({ maxLength: 255 })),
  enabled: Type.Optional(Type.String({ maxLength: 8 })),
  domain_id: Type.Optional(Type.String({ maxLength: 64 })),
});

export const assignmentQuery = Type.Object({
  'user.id': Type.Optional(Type.String({ maxLength: 64 })),
  'scope.project.id': Type.Optional(Type.String({ maxLength: 64 })),
  'role.id': Type.Optional(Type.String({ maxLength: 64 })),
  include_names: Type.Optional(Type.String({ maxLength: 8 })),
});

export const idParams = Type.Object({ id: Type.String() });
export const memberParams = Type.Object({ project: Type.String(), user: Type.String() });
export const grantParams = Type.Object({ project: Type.String(), user: Type.String(), role: Type.String() });
